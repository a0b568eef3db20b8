"""``gare compare``: the trials of a sweep, or two evaluations, and whether a difference is more than chance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import gare_command
from gare.common.console import note, print_table, say, warn
from gare.common.errors import InputError
from gare.common.records import load_json
from gare.common.redact import first_line
from gare.common.text import folder_name

if TYPE_CHECKING:
    from gare.evaluation.metrics.paired import PairedRanking
    from gare.evaluation.metrics.query_table import QueryTable
    from tune.comparison import Comparison

PLACE = click.Path(path_type=Path)
MOST_SENTENCES = 12
SWEEP_OPTIONS = frozenset({"baseline"})
EVALUATION_OPTIONS = frozenset({"split", "level", "resamples", "seed"})


@gare_command("compare", short_help="Rank the trials of a sweep, or compare two evaluations query by query.")
@click.argument("places", metavar="SWEEP | A B", nargs=-1, required=True, type=PLACE)
@click.option("--out", type=PLACE, help="Folder for the files of a sweep, or JSON file for two evaluations.")
@click.option(
    "--baseline",
    help="Sweep: the case or trial to compare with, named before you look; without it the case that changes nothing, "
    "or the best.",
)
@click.option("--split", default="test", show_default=True, help="Evaluations: the split they were made on.")
@click.option(
    "--level",
    default=0.95,
    show_default=True,
    help="Evaluations: level of the intervals.",
    type=click.FloatRange(0.5, 0.9999),
)
@click.option(
    "--resamples",
    default=10_000,
    show_default=True,
    help="Evaluations: resamples.",
    type=click.IntRange(100, 1_000_000),
)
@click.option(
    "--seed", default=0, show_default=True, help="Evaluations: seed of the resamples.", type=click.IntRange(0)
)
def compare(places: tuple[Path, ...], out: Path | None, baseline: str | None, **settings: Any) -> dict[str, Any]:
    """Rank the settings of a SWEEP, or compare the evaluations A and B.

    SWEEP is the folder of a sweep, or its name in the folder runs. Its comparison is written to comparison.html, a
    page to look at, comparison.json, the figures behind it, and best.yaml, which gare train accepts. A sweep can be
    compared while it runs.

    A and B are folders of runs, checkpoints or evaluations, each evaluated by gare evaluate on the same split. The
    ranks that they gave to the same queries are compared by a paired bootstrap over videos; a difference whose interval
    contains 0 may be chance.

    \b
    Examples:
      gare compare runs/weights
      gare compare ablation --baseline "no regulariser" --out report
      gare compare runs/first runs/second --split dev
    """
    if len(places) > 2:
        raise InputError(f"These are {len(places)} folders; give one sweep, or two evaluations.")
    _refuse_options(SWEEP_OPTIONS if len(places) == 2 else EVALUATION_OPTIONS, len(places))
    if len(places) == 1:
        return _compare_sweep(places[0], out, baseline)
    return _compare_evaluations(places[0], places[1], out, **settings)


def find_sweep(place: str | Path) -> Path:
    """The folder of a sweep, given as itself or by its name in the folder runs; InputError where there is none."""
    from gare.config import RuntimeConfig

    for folder in (Path(place), Path(RuntimeConfig().output) / place):
        if folder.is_dir():
            return folder
    raise InputError(f"There is no sweep {place}; give the folder of a gare sweep.")


def print_sweep(comparison: Comparison) -> None:
    """Print the ranking of a sweep's settings, and what may be said of their differences."""
    columns, rows = comparison.table()
    # A key breaks at its dots, not inside a word.
    print_table(f"Sweep {comparison.name}", [column.replace(".", ".\n") for column in columns], rows)
    for trial in comparison.failed:
        note(f"{trial.name} failed: {trial.error}")
    for caution in comparison.cautions():
        warn(caution)
    told = [each.says for each in comparison.against if each.verdict != "unknown"]
    for says in told[:MOST_SENTENCES]:
        say(says)
    if len(told) > MOST_SENTENCES:
        note(f"The page has {len(told) - MOST_SENTENCES} more such comparisons.")
    for path in comparison.files:
        say(str(path))


def _refuse_options(foreign: frozenset[str], places: int) -> None:
    context = click.get_current_context()
    given = [
        f"--{name}"
        for name in sorted(foreign)
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        what = "two evaluations; you gave one folder" if places == 1 else "a sweep; you gave two folders"
        raise InputError(f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for {what}.")


def _compare_sweep(place: Path, out: Path | None, baseline: str | None) -> dict[str, Any]:
    import tune.comparison
    from gare.evaluation.metrics.query_table import RANKS_FILE
    from tune.record import SWEEP_FILE

    folder = find_sweep(place)
    if (folder / RANKS_FILE).is_file() or not (folder / SWEEP_FILE).exists():
        raise InputError(f"{folder} is no sweep; to compare two evaluations, name both.")
    found = tune.comparison.compare(folder, out, baseline)
    print_sweep(found)
    return found.as_json()


def _compare_evaluations(
    a: Path, b: Path, out: Path | None, *, split: str, level: float, resamples: int, seed: int
) -> dict[str, Any]:
    from gare.common.files import write_json
    from gare.common.occupied import refuse_part
    from gare.evaluation.metrics.paired import compare_tables
    from gare.evaluation.metrics.query_table import read_queries

    if out is not None:
        refuse_part(out)
    places = {"a": ranks_file(a, split), "b": ranks_file(b, split)}
    tables = {side: read_queries(path) for side, path in places.items()}
    _remark(tables["a"], tables["b"])
    for side, path in places.items():
        for caution in cautions_of(path.parent):
            warn(f"{side.upper()}: {caution}")
    paired = compare_tables(tables["a"], tables["b"], level=level, resamples=resamples, seed=seed)
    note(f"A: {places['a']}\nB: {places['b']}")
    for ranking in paired:
        _print(ranking, level)
    verdict = next((r for r in paired if r.name == "t2v"), paired[0]).verdict(level)
    say(verdict)
    sides = {
        side: {"ranks": str(places[side]), "split": table.split, "dataset_digest": table.dataset_digest}
        for side, table in tables.items()
    }
    settings = {"ties": tables["a"].ties, "level": level, "resamples": resamples, "seed": seed}
    found = {ranking.name: asdict(ranking) | {"queries": ranking.queries} for ranking in paired}
    result: dict[str, Any] = {**sides, **settings, "rankings": found, "verdict": verdict}
    if out is not None:
        write_json(out, result)
        note(f"comparison: {out}")
    return result


def ranks_file(place: Path, split: str) -> Path:
    """The ranks per query of an evaluation's folder, or of the evaluation of ``split`` by a checkpoint or a run."""
    from gare.evaluation.metrics.query_table import RANKS_FILE
    from gare.runs.state import resolve_checkpoint

    if (place / RANKS_FILE).is_file():
        return place / RANKS_FILE
    if not place.is_dir():
        raise InputError(f"There is no folder {place}; give the folder of a run, a checkpoint or an evaluation.")
    path = resolve_checkpoint(place) / "evaluation" / folder_name(split) / RANKS_FILE
    if not path.is_file():
        raise InputError(
            f"{place} has no evaluation of {split!r} with the rank of every query (there is no {path}); run gare "
            f"evaluate {place} --shards SHARDS --split {split} first."
        )
    return path


def cautions_of(evaluation: Path) -> list[str]:
    """What an evaluation's own record says to know before its figures; nothing where it has none."""
    from gare.common.storage import read_file
    from gare.evaluation.results import METRICS_FILE

    path = evaluation / METRICS_FILE
    text = read_file(path)
    if text is None:
        return []
    try:
        said = load_json(text, nan=True).get("selection", {}).get("cautions", [])
        return [str(caution) for caution in [*said]]
    except (ValueError, TypeError, AttributeError) as error:
        return [f"{path} is damaged ({first_line(error)}), and its cautions are not known."]


def _remark(a: QueryTable, b: QueryTable) -> None:
    """Say what is not the same, where the comparison is still one of the same queries."""
    if a.dataset_digest != b.dataset_digest:
        warn("A and B were evaluated on different shards of the same queries; the videos' frames may differ.")
    alone = [name for name in {**a.queries, **b.queries} if name not in a.queries or name not in b.queries]
    if alone:
        warn(f"Only one of them has {', '.join(alone)}, which cannot be compared.")


def _print(ranking: PairedRanking, level: float) -> None:
    title = (
        f"{ranking.name}: {ranking.queries} queries, gallery {ranking.gallery}; "
        f"B ranks {ranking.better} better, {ranking.worse} worse, {ranking.equal} the same"
    )
    rows = [
        [d.metric.partition("/")[2], d.a, d.b, f"{d.difference:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", f"{d.p:.4f}"]
        for d in ranking.differences
    ]
    print_table(title, ["metric", "A", "B", "B - A", f"{100 * level:g} % interval", "p"], rows)

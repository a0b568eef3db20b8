"""``gare compare-runs``: two evaluations of the same queries, and whether their difference is more than chance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import gare_command
from gare.common.console import note, output, print_table, warn
from gare.common.errors import InputError
from gare.common.records import load_json
from gare.common.redact import first_line

if TYPE_CHECKING:
    from gare.retrieval.metrics.paired import PairedRanking
    from gare.retrieval.metrics.query_table import QueryTable

PLACE = click.Path(path_type=Path)


@gare_command("compare-runs", short_help="Compare two evaluations query by query.")
@click.argument("a", type=PLACE)
@click.argument("b", type=PLACE)
@click.option("--split", default="test", show_default=True, help="Split they were evaluated on.")
@click.option(
    "--level", default=0.95, show_default=True, help="Level of the intervals.", type=click.FloatRange(0.5, 0.9999)
)
@click.option("--resamples", default=10_000, show_default=True, help="Resamples.", type=click.IntRange(100, 1_000_000))
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.", type=click.IntRange(0))
@click.option("--out", type=PLACE, help="Write the comparison to this JSON file.")
def compare_runs(
    a: Path, b: Path, split: str, level: float, resamples: int, seed: int, out: Path | None
) -> dict[str, Any]:
    """Compare the ranks that A and B gave to the same queries, by a paired bootstrap over videos.

    A and B are folders of runs, checkpoints or evaluations, each evaluated by gare evaluate on the same split. A
    difference whose interval contains 0 may be chance. To rank the trials of a sweep, use gare compare.

    \b
    Example:
      gare evaluate runs/first --shards shards
      gare evaluate runs/second --shards shards
      gare compare-runs runs/first runs/second
    """
    from gare.common.files import write_json
    from gare.retrieval.metrics.paired import compare_tables
    from gare.retrieval.metrics.query_table import read_queries

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
    output().print(verdict, markup=False)
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
    from gare.retrieval.metrics.query_table import RANKS_FILE
    from gare.training.run import resolve_checkpoint

    if (place / RANKS_FILE).is_file():
        return place / RANKS_FILE
    if not place.is_dir():
        raise InputError(f"There is no folder {place}; give the folder of a run, a checkpoint or an evaluation.")
    path = resolve_checkpoint(place) / "evaluation" / split / RANKS_FILE
    if not path.is_file():
        raise InputError(
            f"{place} has no evaluation of {split!r} with the rank of every query (there is no {path}); run gare "
            f"evaluate {place} --shards SHARDS --split {split} first."
        )
    return path


def cautions_of(evaluation: Path) -> list[str]:
    """What an evaluation's own record says to know before its figures; nothing where it has none."""
    from gare.retrieval.evaluation.results import METRICS_FILE

    path = evaluation / METRICS_FILE
    if not path.is_file():
        return []
    try:
        said = load_json(path.read_bytes(), nan=True).get("selection", {}).get("cautions", [])
        return [str(caution) for caution in [*said]]
    except (OSError, ValueError, TypeError, AttributeError) as error:
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

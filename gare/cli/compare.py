"""``gare compare``: compare the trials of a sweep, or two evaluations, and tell if a difference is more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, gare_command
from gare.common.console import note, print_table, say, warn
from gare.common.errors import InputError

if TYPE_CHECKING:
    from gare.evaluation.metrics.paired import PairedRanking
    from tune.comparison import Comparison

MOST_SENTENCES = 12
SWEEP_OPTIONS = frozenset({"baseline"})
EVALUATION_OPTIONS = frozenset({"split", "level", "resamples", "seed"})


@gare_command("compare", short_help="Rank the trials of a sweep, or compare two evaluations query by query.")
@click.argument("places", metavar="SWEEP | A B", nargs=-1, required=True, type=PLACE)
@click.option("--out", type=PLACE, help="Folder for the files of a sweep, or JSON file for two evaluations.")
@click.option(
    "--baseline",
    help="Sweep: the case or trial to compare with, named before you look; by default the case that changes nothing, "
    "or the best.",
)
@click.option("--split", default="test", help="Evaluations: the split they were made on.")
@click.option("--level", default=0.95, help="Evaluations: level of the intervals.", type=click.FloatRange(0.5, 0.9999))
@click.option(
    "--resamples",
    default=10_000,
    help="Evaluations: resamples of the bootstrap.",
    type=click.IntRange(100, 1_000_000),
)
@click.option("--seed", default=0, help="Evaluations: seed of the resamples.", type=click.IntRange(0))
def compare(places: tuple[Path, ...], out: Path | None, **settings: Any) -> dict[str, Any]:
    """Rank the settings of a SWEEP, or compare the evaluations A and B.

    SWEEP is the folder of a sweep, or its name in the folder runs. Its comparison is written to comparison.html, a
    page to read, comparison.json, the figures behind it, and best.yaml, which gare train accepts. You can compare a
    sweep while it runs.

    A and B are folders of runs, checkpoints or evaluations, both evaluated by gare evaluate on the same split. The
    ranks that they gave to the same queries are compared by a paired bootstrap over videos; a difference whose interval
    contains 0 may be chance.

    \b
    Examples:
      gare compare runs/weights
      gare compare ablation --baseline "no regulariser" --out report
      gare compare runs/first runs/second --split dev
    """
    from gare.api import compare as api

    if len(places) <= 2:
        _refuse_options(SWEEP_OPTIONS if len(places) == 2 else EVALUATION_OPTIONS, len(places))
    found = api.compare(*places, out=out, **settings)
    if not isinstance(found, api.EvaluationComparison):
        print_sweep(found)
        return found.as_json()
    note(f"A: {found.sides['a']['ranks']}\nB: {found.sides['b']['ranks']}")
    for ranking in found.rankings:
        _print(ranking, found.level)
    say(found.verdict)
    if out is not None:
        note(f"comparison: {out}")
    return found.as_json()


def print_sweep(comparison: Comparison) -> None:
    """Print the ranking of a sweep's settings, and the verdicts on their differences."""
    columns, rows = comparison.table()
    # Keys break at their dots, not inside a word.
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

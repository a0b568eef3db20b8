"""``gare evaluate``, ``gare zero-shot`` and ``gare diagnose``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import CHECKPOINT, PLACE, SHARDS, SPLIT, config_options, gare_command, with_options
from gare.common.console import note, print_table, say
from gare.common.occupied import refuse_part

if TYPE_CHECKING:
    from gare.api.evaluate import EvaluationResult

DSL = "_dsl: dual softmax, over all queries of the split together, which a search for one sentence does not have."
QBNORM = "_qbnorm: QB-Norm with a query bank of the train split."
EVALUATION_OPTIONS = with_options(
    click.option(
        "--frames",
        type=click.Choice(["all", "middle"]),
        default="all",
        help="middle: replace every frame of a clip by its middle one, to see how much of the score needs time.",
    ),
    click.option(
        "--ties",
        type=click.Choice(["pessimistic", "optimistic", "mean"]),
        default="pessimistic",
        help="How to rank wrong answers that score the same as the right one: before it, after it, or half of each.",
    ),
    click.option(
        "--query-bank",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Also measure QB-Norm, with N captions and N videos of the train split, drawn by train.seed; "
        "1000 is usual. 0 leaves it out.",
    ),
    click.option(
        "--resamples",
        type=click.IntRange(min=0, max=1_000_000),
        default=10_000,
        help="Resamples of the bootstrap behind the intervals; 0 leaves them out.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Replace an evaluation of another dataset, split or model in the folder; without it the command fails.",
    ),
    click.option("--save-scores", is_flag=True, help="Also write all scores (scores.safetensors)."),
    click.option("--report/--no-report", default=True, help="Write the page report.html."),
    click.option(
        "--hardest",
        type=click.IntRange(min=0, max=200),
        default=12,
        help="How many of the worst-ranked captions the page shows.",
    ),
    click.option("--sheet", type=PLACE, help="Write a PNG of some queries with their top videos."),
)


@gare_command("evaluate", short_help="Measure retrieval on a split.")
@CHECKPOINT
@SHARDS
@SPLIT
@click.option("--out", type=PLACE, help="Folder for the results; CHECKPOINT/evaluation/SPLIT by default.")
@EVALUATION_OPTIONS
@config_options
def evaluate(
    checkpoint: str, shards: str, split: str, out: Path | None, overrides: tuple[str, ...], **options: Any
) -> dict[str, Any]:
    """Measure how well CHECKPOINT (or the best one of a run's folder) retrieves a split, in both directions.

    Writes the figures (metrics.json), the rank of every query (ranks.parquet) and a page to read (report.html).
    Every caption is a text query; a video query counts its best-ranked caption. Post-processed figures are added to the
    raw ones and never replace them.

    \b
    Examples:
      gare evaluate runs/demo --shards shards --split test
      gare evaluate runs/demo --shards shards --query-bank 1000 --save-scores
    """
    from gare.api import evaluate as api

    return _show(api.evaluate(checkpoint, shards, split, out=out, set=overrides, **options))


@gare_command("zero-shot", short_help="Measure CLIP without training, as a baseline.")
@click.argument("clip")
@SHARDS
@SPLIT
@click.option("--out", type=PLACE, help="Folder for the results; zero-shot/CLIP/SPLIT by default.")
@EVALUATION_OPTIONS
@config_options
def zero_shot(
    clip: str, shards: str, split: str, out: Path | None, overrides: tuple[str, ...], **options: Any
) -> dict[str, Any]:
    """Measure how well CLIP retrieves a split without any training: the baseline for a trained model.

    CLIP is a folder or hub id of a CLIP, SigLIP or MetaCLIP 2. A video is the mean of its frames' normalised image
    embeddings, a score the cosine of that with the text embedding. CLIP reads as many words as it can, unless you set
    data.words. Writes what gare evaluate writes.

    \b
    Examples:
      gare zero-shot openai/clip-vit-base-patch32 --shards shards --split test
      gare zero-shot clip --shards shards --set data.frames=8 --set data.words=24
    """
    from gare.api import evaluate as api

    return _show(api.zero_shot(clip, shards, split, api.Options(**options), out=out, set=overrides))


@gare_command("diagnose", short_help="Measure and draw what the increments of a checkpoint do.")
@CHECKPOINT
@SHARDS
@click.option("--split", default="dev", help="Split to look at.")
@click.option("--pairs", default=64, type=click.IntRange(min=2), help="Videos, one caption each.")
@click.option("--out", required=True, type=PLACE, help="PNG to write.")
@config_options
def diagnose(
    checkpoint: str, shards: str, split: str, pairs: int, out: Path, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """Measure what the increments of CHECKPOINT do to the captions and videos of a split, and draw it.

    Modality gap, alignment and uniformity before and after the increment, its length and angle for matching and
    other pairs, margins, and how far the gradients of one anchor pull against each other.

    \b
    Example:
      gare diagnose runs/demo --shards shards --split dev --out increments.png
    """
    from gare.api.checkpoint import open_checkpoint
    from gare.data.batches import check_fit
    from gare.diagnostics.pairs import diagnose_split

    refuse_part(out)
    with open_checkpoint(checkpoint, shards, overrides) as (folder, model, dataset, config):
        tokenizer = check_fit(model, dataset, config)
        found, figures = diagnose_split(model, tokenizer, dataset.split(split), config, pairs, out, str(folder))
    title = f"{folder.name} on {found} pairs of {split}"
    print_table(title, ["measure", "value"], [[name, f"{value:.4g}"] for name, value in figures.items()])
    note(f"figure: {out}")
    finite = {name: value if value == value else None for name, value in figures.items()}
    return {"checkpoint": str(folder), "split": split, "pairs": found, "figure": str(out), "measures": finite}


def print_metrics(title: str, values: Mapping[str, Any]) -> None:
    """Print a row for each ranking of metrics.json: raw ones first, then the post-processed."""
    columns = ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "queries", "gallery"]
    names = [name.removesuffix("/R@1") for name in values if name.endswith("/R@1")]
    rows = [[name, *(values[f"{name}/{column}"] for column in columns)] for name in names]
    if values["intervals"]:
        columns.insert(1, f"its {100 * values['bootstrap']['level']:g} % interval")
        for row in rows:
            low, high = values["intervals"][f"{row[0]}/R@1"]
            row.insert(2, f"{low:.2f} to {high:.2f}")
    print_table(title, ["ranking", *columns], rows)
    for remark in [DSL, QBNORM] if "qbnorm" in values["postprocessing"] else [DSL]:
        say(remark)


def _show(result: EvaluationResult) -> dict[str, Any]:
    print_metrics(result.title, result.values)
    return result.as_json()

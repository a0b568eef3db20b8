"""What ``gare evaluate`` and ``gare zero-shot`` do alike: options, measuring, files, the table and the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gare import __version__
from gare.common.console import note, print_table, say, warn
from gare.common.errors import InputError
from gare.common.text import folder_name

if TYPE_CHECKING:
    from gare.cli.selection import Selection
    from gare.config import Config
    from gare.data.shards import ShardSet, Split
    from gare.evaluation.measure import Measurement
    from gare.evaluation.metrics.counting import Ties
    from gare.evaluation.report import Subject
    from gare.evaluation.scorer import GareScorer

DSL = "_dsl: dual softmax, over all queries of the split together, which a search for one sentence does not have."
QBNORM = "_qbnorm: QB-Norm with a query bank of the train split."
OPTIONS = (
    click.option(
        "--frames",
        type=click.Choice(["all", "middle"]),
        default="all",
        show_default=True,
        help="middle: replace every frame of a clip by its middle one, to see how much of the score needs time.",
    ),
    click.option(
        "--ties",
        type=click.Choice(["pessimistic", "optimistic", "mean"]),
        default="pessimistic",
        show_default=True,
        help="Where wrong answers with the right one's score stand: before it, after it, or half of them each.",
    ),
    click.option(
        "--query-bank",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Measure QB-Norm too, with N captions and N videos of the train split, drawn by train.seed and encoded "
        "first; 1000 is usual. 0 leaves it out.",
    ),
    click.option(
        "--resamples",
        type=click.IntRange(min=0, max=1_000_000),
        default=10_000,
        show_default=True,
        help="Resamples of the bootstrap that gives the intervals; 0 leaves them out.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Replace the evaluation of another dataset, split or model that lies in the folder; refused without it.",
    ),
    click.option("--save-scores", is_flag=True, help="Write all scores too (scores.safetensors)."),
    click.option("--report/--no-report", default=True, show_default=True, help="Write the page report.html."),
    click.option(
        "--hardest",
        type=click.IntRange(min=0, max=200),
        default=12,
        show_default=True,
        help="How many of the worst-ranked captions the page shows.",
    ),
    click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG of some queries with their top videos."),
)


@dataclass(frozen=True)
class Wanted:
    """The values of ``OPTIONS``."""

    frames: Literal["all", "middle"]
    ties: Ties
    query_bank: int
    resamples: int
    overwrite: bool
    save_scores: bool
    report: bool
    hardest: int
    sheet: Path | None

    def folder(self, split: str) -> str:
        """The name of the results' folder."""
        return folder_name(split) + ("" if self.frames == "all" else f"-{self.frames}-frame")


def evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``OPTIONS``, in their order."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def run_evaluation(
    scorer: GareScorer,
    chosen: Selection,
    checkpoint: str,
    split: Split,
    dataset: ShardSet,
    out: Path,
    wanted: Wanted,
) -> dict[str, Any]:
    """Measure a model on a split, write what was asked for into ``out``, print the table; returns metrics.json."""
    from gare.common.files import staged_files
    from gare.common.occupied import refuse_part
    from gare.evaluation.measure import measure
    from gare.evaluation.query_bank import draw_bank
    from gare.evaluation.report import REPORT_FILE, write_report
    from gare.evaluation.results import METRICS_FILE, RESULT_FILES, refuse_another, write_results
    from gare.search.sheet import contact_sheet
    from gare.training.weights import weights_digest

    config, bank = scorer.config, None
    identity = _identity(chosen, checkpoint, split, dataset, config, wanted)
    identity["weights_digest"] = weights_digest(scorer.model)
    refuse_another(out, identity, overwrite=wanted.overwrite)
    if wanted.sheet is not None:
        refuse_part(wanted.sheet)
        if wanted.sheet.name in (*RESULT_FILES, REPORT_FILE) and wanted.sheet.parent.resolve() == out.resolve():
            raise InputError(f"--sheet {wanted.sheet} is a file of the results; give the picture another name.")
    if wanted.query_bank:
        train = dataset.split(config.data.train_split)
        bank = draw_bank(train, split, wanted.query_bank, config.train.seed)
    measured = measure(scorer, split, ties=wanted.ties, bank=bank, resamples=wanted.resamples)
    identity["evaluated"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with staged_files(out, [*RESULT_FILES, REPORT_FILE]) as folder:
        values = write_results(folder, measured, split, identity, scores=wanted.save_scores)
        if wanted.report:
            subject = _subject(scorer, chosen, identity, measured)
            write_report(folder / REPORT_FILE, subject, measured, split, hardest=wanted.hardest)
    if wanted.sheet is not None:
        contact_sheet(measured.evaluation.texts, measured.answers["t2v"], split, wanted.sheet)
        note(f"contact sheet: {wanted.sheet}")
    page = out / REPORT_FILE
    print_metrics(_title(chosen.title, split.name, wanted), values)
    for caution in chosen.cautions:
        warn(caution)
    note(f"metrics: {out / METRICS_FILE}")
    if wanted.report:
        note(f"report: {page}")
    return values | {"out": str(out), "report": str(page) if wanted.report else None}


def print_metrics(title: str, values: Mapping[str, Any]) -> None:
    """A table with a row for each ranking of metrics.json: raw ones first, then the post-processed."""
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


def _title(name: str, split: str, wanted: Wanted) -> str:
    return f"{name} on {split}" + ("" if wanted.frames == "all" else " (every frame replaced by the middle one)")


def _identity(
    chosen: Selection, checkpoint: str, split: Split, dataset: ShardSet, config: Config, wanted: Wanted
) -> dict[str, Any]:
    """What was evaluated on what, for metrics.json."""
    return {
        "checkpoint": checkpoint,
        "split": split.name,
        "frames": wanted.frames,
        "dataset_digest": dataset.digest,
        "recipe_digest": dataset.manifest["recipe_digest"],
        "config_digest": chosen.experiment,
        "selection": {"rule": chosen.rule, "says": chosen.says, "cautions": chosen.cautions},
        "settings": {"data.frames": config.data.frames, "data.words": config.data.words},
        "version": __version__,
    }


def _subject(scorer: GareScorer, chosen: Selection, identity: dict[str, Any], measured: Measurement) -> Subject:
    """What the page says of the model."""
    from gare.evaluation.report import Subject

    config = scorer.config
    cautions = list(chosen.cautions)
    if identity["frames"] == "middle":
        cautions.append("Every frame of a clip was replaced by its middle one; the pictures show the clips themselves.")
    facts = [
        ("evaluated", identity["evaluated"].replace("T", " ").replace("Z", " UTC")),
        ("checkpoint", identity["checkpoint"]),
        ("dataset digest", identity["dataset_digest"]),
        ("recipe digest", identity["recipe_digest"]),
        ("experiment digest", chosen.experiment or "none"),
        ("frames of a video", f"at most {config.data.frames}"),
        ("tokens of a caption", f"at most {config.data.words}"),
        ("software", f"gare {__version__}"),
    ]
    _, kept = scorer.tokenizer(measured.evaluation.texts, config.data.words + 1)
    return Subject(
        chosen.title,
        identity["split"],
        chosen.says,
        cautions,
        facts,
        config.data.frames,
        config.data.words,
        kept[:, -1].tolist(),
    )

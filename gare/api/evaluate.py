"""``gare.evaluate``, also for CLIP without training: measure retrieval on a split, write figures and a page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare import __version__
from gare.api import public
from gare.api.checkpoint import open_checkpoint, open_clip
from gare.api.settings import Place, check_text, local_path, one_of, whole
from gare.common.console import note, warn
from gare.common.errors import InputError
from gare.common.files import staged_files
from gare.common.occupied import refuse_part
from gare.common.text import folder_name
from gare.config.tree import Overrides
from gare.data.batches import check_fit
from gare.data.shards import ShardSet, Split
from gare.evaluation.encode import FrameChoice
from gare.evaluation.measure import Measurement, measure
from gare.evaluation.metrics.bootstrap import RESAMPLES
from gare.evaluation.metrics.counting import Ties
from gare.evaluation.postprocess import draw_bank
from gare.evaluation.report.content import Subject
from gare.evaluation.report.page import REPORT_FILE, write_report
from gare.evaluation.results import METRICS_FILE, RESULT_FILES, refuse_another, write_results
from gare.evaluation.scorer import GareScorer
from gare.evaluation.sheet import contact_sheet
from gare.launch.tracked import record_evaluation
from gare.model.checkpoint import load_checkpoint_config
from gare.model.weights import weights_digest
from gare.runs.selection import Selection, selection, zero_shot_selection
from gare.training.numerics import numerics


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of an evaluation and the location of its files.

    ``values``: the content of metrics.json: the metrics, queries and gallery of every ranking, the model and data,
    intervals and post-processing.
    """

    title: str
    folder: Path
    report: Path | None
    cautions: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name, such as ``t2v/R@1`` in percent and ``t2v/MdR`` as a rank."""
        sizes = ("/queries", "/gallery")
        return {name: value for name, value in self.values.items() if "/" in name and not name.endswith(sizes)}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each metric; empty without resamples."""
        return {name: (low, high) for name, (low, high) in self.values["intervals"].items()}

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {**self.values, "out": str(self.folder), "report": str(self.report) if self.report else None}


@dataclass(frozen=True)
class Options:
    """The options of an evaluation, named as the arguments of ``evaluate``."""

    frames: FrameChoice = "all"
    ties: Ties = "pessimistic"
    query_bank: int = 0
    resamples: int = RESAMPLES
    overwrite: bool = False
    save_scores: bool = False
    report: bool = True
    hardest: int = 12
    sheet: Path | None = None

    def __post_init__(self) -> None:
        one_of("frames", self.frames, ("all", "middle"))
        one_of("ties", self.ties, ("pessimistic", "optimistic", "mean"))
        for name, most in (("query_bank", None), ("resamples", 10**6), ("hardest", 200)):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0, most))

    def folder(self, split: str) -> str:
        """Return the name of the results' folder."""
        return folder_name(split) + ("" if self.frames == "all" else f"-{self.frames}-frame")


@public
def evaluate(
    checkpoint: Place,
    shards: Place,
    split: str = "test",
    *,
    out: Place | None = None,
    frames: FrameChoice = "all",
    ties: Ties = "pessimistic",
    query_bank: int = 0,
    resamples: int = RESAMPLES,
    overwrite: bool = False,
    save_scores: bool = False,
    report: bool = True,
    hardest: int = 12,
    sheet: Place | None = None,
    set: Overrides = (),
    **settings: Any,
) -> EvaluationResult:
    """Measure how well a checkpoint retrieves a split, in both directions.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        shards: folder or address of ``gare.prepare``.
        split: the split whose captions are queries and whose videos are the gallery.
        out: folder for metrics.json, ranks.parquet and report.html; CHECKPOINT/evaluation/SPLIT by default.
        frames: "middle" replaces every frame of a clip by its middle one.
        ties: how to rank wrong answers that score as the right one: before it (pessimistic), after it, or half (mean).
        query_bank: also measure QB-Norm, with this many captions and videos of the train split; 0 leaves it out.
        resamples: resamples of the bootstrap for the intervals; 0 leaves them out.
        overwrite: replace an evaluation of another dataset, split or model in the folder.
        save_scores: also write all scores (scores.safetensors).
        report: write the page.
        hardest: how many of the worst-ranked captions the page shows.
        sheet: PNG to write of some queries with their top videos.
        set: overrides of ``runtime``, ``data`` and ``train.deterministic`` by dotted key, or ``key=value`` texts.
        **settings: the same by section, such as ``runtime={"device": "cpu"}``.

    Raises:
        ConfigError: a setting cannot be used, or model and shards do not fit together.
        InputError: the checkpoint, shards, split or folder cannot be used.
        RunError: the scores are NaN.
    """
    picture = None if sheet is None else local_path("sheet", sheet)
    check_text("split", split)
    given = None if out is None else local_path("out", out)
    options = Options(frames, ties, query_bank, resamples, overwrite, save_scores, report, hardest, picture)
    with open_checkpoint(checkpoint, shards, set, settings) as (folder, model, dataset, config):
        scorer = GareScorer(model, check_fit(model, dataset, config), config, options.frames)
        rows = dataset.split(split)
        # Use the settings of the training: an override changes the measurement, not what the model has seen.
        chosen = selection(folder, load_checkpoint_config(folder), dataset, rows)
        name = options.folder(split)
        place = given or folder / "evaluation" / name
        result = _run(scorer, chosen, str(folder), rows, dataset, place, options)
    if config.runtime.tracking:
        record_evaluation(folder, name, result.as_json())
    return result


def zero_shot(
    clip: str, shards: Place, split: str, options: Options, *, out: Place | None = None, set: Overrides = ()
) -> EvaluationResult:
    """Measure a CLIP, SigLIP or MetaCLIP 2 (folder or hub id) without training: the baseline for trained models.

    A video is the mean of its frames' normalised embeddings, a score the cosine of that and the text embedding. Raises
    the errors of ``evaluate``.
    """
    model, dataset, config = open_clip(clip, shards, set)
    place = Path("zero-shot") / Path(clip).name / options.folder(split) if out is None else local_path("out", out)
    with numerics(config):
        scorer = GareScorer(model, check_fit(model, dataset, config), config, options.frames)
        return _run(scorer, zero_shot_selection(clip), clip, dataset.split(split), dataset, place, options)


def _run(
    scorer: GareScorer, chosen: Selection, checkpoint: str, split: Split, dataset: ShardSet, out: Path, options: Options
) -> EvaluationResult:
    """Measure a model on a split and write the requested files into ``out``."""
    config, bank, sheet = scorer.config, None, options.sheet
    identity = {
        "checkpoint": checkpoint,
        "split": split.name,
        "frames": options.frames,
        "dataset_digest": dataset.digest,
        "recipe_digest": dataset.manifest["recipe_digest"],
        "config_digest": chosen.experiment,
        "selection": {"rule": chosen.rule, "says": chosen.says, "cautions": chosen.cautions},
        "settings": {"data.frames": config.data.frames, "data.words": config.data.words},
        "version": __version__,
        "weights_digest": weights_digest(scorer.model),
    }
    refuse_another(out, identity, overwrite=options.overwrite)
    if sheet is not None:
        refuse_part(sheet)
        if sheet.name in (*RESULT_FILES, REPORT_FILE) and sheet.parent.resolve() == out.resolve():
            raise InputError(f"--sheet {sheet} is a file of the results; give the picture another name.")
    if options.query_bank:
        bank = draw_bank(dataset.split(config.data.train_split), split, options.query_bank, config.train.seed)
    measured = measure(scorer, split, ties=options.ties, bank=bank, resamples=options.resamples)
    identity["evaluated"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with staged_files(out, [*RESULT_FILES, REPORT_FILE]) as folder:
        values = write_results(folder, measured, split, identity, scores=options.save_scores)
        if options.report:
            subject = _subject(scorer, chosen, identity, measured)
            write_report(folder / REPORT_FILE, subject, measured, split, hardest=options.hardest)
    if sheet is not None:
        contact_sheet(measured.evaluation.texts, measured.answers["t2v"], split, sheet)
        note(f"contact sheet: {sheet}")
    for caution in chosen.cautions:
        warn(caution)
    note(f"metrics: {out / METRICS_FILE}")
    report = out / REPORT_FILE if options.report else None
    if report is not None:
        note(f"report: {report}")
    middle = "" if options.frames == "all" else " (every frame replaced by the middle one)"
    return EvaluationResult(f"{chosen.title} on {split.name}{middle}", out, report, tuple(chosen.cautions), values)


def _subject(scorer: GareScorer, chosen: Selection, identity: Mapping[str, Any], measured: Measurement) -> Subject:
    """Gather the page's facts about the model."""
    data, cautions = scorer.config.data, list(chosen.cautions)
    if identity["frames"] == "middle":
        cautions.append("Every frame of a clip was replaced by its middle one; the pictures show the clips themselves.")
    facts = [
        ("evaluated", identity["evaluated"].replace("T", " ").replace("Z", " UTC")),
        ("checkpoint", identity["checkpoint"]),
        ("dataset digest", identity["dataset_digest"]),
        ("recipe digest", identity["recipe_digest"]),
        ("experiment digest", chosen.experiment or "none"),
        ("frames of a video", f"at most {data.frames}"),
        ("tokens of a caption", f"at most {data.words}"),
        ("software", f"gare {__version__}"),
    ]
    _, kept = scorer.tokenizer(measured.evaluation.texts, data.words + 1)
    whole = kept[:, -1].tolist()
    return Subject(chosen.title, identity["split"], chosen.says, cautions, facts, data.frames, data.words, whole)

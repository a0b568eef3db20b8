"""Plan a run: its settings, data, steps, parameters, memory, disk and the errors it would meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from gare.common.errors import GareError
from gare.common.files import refuse_unwritable
from gare.config import Config
from gare.config.tree import diff
from gare.data.batches import NO_TOKENIZER, check_sizes, unlike_prepared
from gare.data.samples import test_cautions
from gare.data.shards import ShardSet
from gare.launch.dry_run.corpus import Corpus
from gare.launch.dry_run.memory import Memory, memory_of_step
from gare.model.clip_source import inspect_clip
from gare.model.gare import GareModel, outline
from gare.runs.inputs import (
    TEMPORAL_AT_RANDOM,
    check_dev,
    check_increments,
    check_recipe,
    check_select_by,
    check_steps,
    dev_remarks,
    head_remarks,
    open_shards,
)
from gare.runs.layout import absolute, clip_source, run_directory
from gare.runs.run import initial_checkpoint, refuse_other
from gare.runs.state import progress, read_state, selected_by
from gare.training.optimiser import freeze, parameter_groups

JPEG_SHARE = 0.08
"""Share of the raw frames: ordinary footage at 224 pixels and quality 90."""
PARTS = {
    "clip.text_": "text tower",
    "clip.vis": "image tower",
    "clip.logit_": "logit scale",
    "temporal.": "temporal transformer",
    "head.psi.": "psi",
    "head.radius.": "increment length",
    "head.": "pair head",
}
"""Prefix of a parameter's name -> its part of the model."""

Given = ParamSpec("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Steps:
    """Steps of the optimiser. ``pairs``: the captions of an epoch, of which ``dropped`` fill no batch."""

    pairs: int
    dropped: int
    per_epoch: int
    total: int
    warmup: int


@dataclass(frozen=True)
class Group:
    """Trained parameters that share a peak learning rate and a weight decay."""

    name: str
    tensors: int
    parameters: int
    peak_lr: float
    weight_decay: float


@dataclass(frozen=True)
class Parameters:
    """Counts by optimiser group and by part of the model."""

    groups: list[Group]
    parts: dict[str, int]
    trained: int
    frozen: int


@dataclass(frozen=True)
class Disk:
    """Bytes of the shards: the most that they can be raw, a rough estimate as JPEG, and ``stored`` if they exist."""

    videos: int
    raw: int
    jpeg: int
    stored: int | None


@dataclass(frozen=True)
class Plan:
    """The plan of a run; None for unknown parts.

    ``changed``: dotted key -> (default, value). ``problems``: the errors that training would raise now.
    """

    name: str
    changed: dict[str, tuple[Any, Any]]
    selected_by: str
    workers: int
    corpus: Corpus | None
    steps: Steps | None
    parameters: Parameters | None
    memory: Memory | None
    disk: Disk | None
    problems: list[str]
    remarks: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values, without the caption count of each video."""
        values = asdict(self)
        if self.corpus is not None:
            del values["corpus"]["train_captions"]
        return values


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def attempt(self, function: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found | None:
        """Call a function and return its result; if it raises a GareError, note that and return None."""
        try:
            return function(*args, **kwargs)
        except GareError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def make_plan(config: Config, corpus: Corpus | None = None, *, workers: int | None = None) -> Plan:
    """Plan the run of ``config``: on ``corpus`` if given (a manifest's), else on its shards if they exist.

    ``workers`` replaces ``runtime.workers``, by default its fewest if it is a range. Nothing is decoded, loaded or
    written.
    """
    findings = _Findings(remarks=test_cautions(config) + head_remarks(config))
    workers = workers or config.runtime.worker_counts(config.train.global_batch)[-1]
    places = findings.attempt(absolute, config) or config
    findings.attempt(check_select_by, config)
    findings.attempt(check_increments, config)
    shards = _shards(places, corpus, findings)
    if corpus is None and shards is not None:
        corpus = Corpus.of_shards(shards, config)
    steps = findings.attempt(_steps, config, corpus, findings) if corpus is not None else None
    findings.attempt(_check_run, places, shards, findings)
    parameters, memory = _model(places, shards, workers, findings)
    return Plan(
        name=config.run_name(),
        changed=diff(Config(), config),
        selected_by=selected_by(config),
        workers=workers,
        corpus=corpus,
        steps=steps,
        parameters=parameters,
        memory=memory,
        disk=_disk(config, corpus) if corpus is not None else None,
        problems=findings.problems,
        remarks=findings.remarks,
    )


def _shards(config: Config, corpus: Corpus | None, findings: _Findings) -> ShardSet | None:
    named = config.runtime.shards
    if named is None and corpus is None:
        findings.remarks.append("Neither a manifest nor shards are named, so the steps are not known.")
        return None
    if named is None or (corpus is not None and not Path(named).exists()):
        findings.remarks.append("There are no shards yet; gare prepare makes them.")
        return None
    shards = findings.attempt(partial(open_shards, frames=False), config)
    if shards is not None:
        findings.attempt(check_recipe, config, shards)
    return shards


def _steps(config: Config, corpus: Corpus, findings: _Findings) -> Steps:
    corpus.require(config.data.train_split)
    if config.protocol.dev == "held_out":
        dev = corpus.require(config.data.dev_split)
        check_dev(config.data.dev_split, dev.captions, corpus.where)
        findings.remarks += dev_remarks(config.data.dev_split, dev.videos)
    counts, train = corpus.train_captions, config.train
    per_epoch = check_steps(config, counts, corpus.where)
    pairs = sum(counts) if config.data.captions == "all" else sum(1 for count in counts if count)
    total = per_epoch * train.epochs
    warmup = sum(step / total < train.warmup for step in range(total))
    return Steps(pairs, pairs - per_epoch * train.global_batch, per_epoch, total, warmup)


def _check_run(config: Config, shards: ShardSet | None, findings: _Findings) -> None:
    folder = run_directory(config)
    findings.attempt(refuse_unwritable, folder)
    state = read_state(folder)
    if state is None or state.last is None:
        if config.train.init_from is not None:
            findings.attempt(initial_checkpoint, config)
        return
    refuse_other(config, folder, state, shards.digest if shards is not None else None)
    if state.finished:
        findings.remarks.append(f"The run {folder} is finished; training it again would do nothing without --extend.")
    else:
        findings.remarks.append(f"The run {folder} would go on after {progress(state.epoch, state.step)}.")


def _model(
    config: Config, shards: ShardSet | None, workers: int, findings: _Findings
) -> tuple[Parameters | None, Memory | None]:
    """Count the model and a step's memory, and note what does not fit it."""
    found = findings.attempt(inspect_clip, clip_source(config))
    model = findings.attempt(outline, found.architecture, config.model) if found is not None else None
    if found is None or model is None:
        return None, None
    if found.lacks_tokenizer:
        findings.problems.append(NO_TOKENIZER)
    if not model.temporal_from_text:
        findings.remarks.append(TEMPORAL_AT_RANDOM)
    side, holder, short_side = config.prepare.side, "prepare keeps", config.prepare.short_side
    if shards is not None:
        side, holder, short_side = shards.side, f"The shards in {shards.folder} hold", shards.short_side
    unlike = unlike_prepared(found.pixels, short_side, config.data)
    if unlike is not None:
        findings.remarks.append(unlike)
    known = len(findings.problems)
    findings.attempt(check_sizes, model, side, holder, config)
    parameters = _parameters(model, config)
    if len(findings.problems) > known:
        return parameters, None
    return parameters, findings.attempt(memory_of_step, found.architecture, config, workers)


def _parameters(model: GareModel, config: Config) -> Parameters:
    freeze(model, config.train)
    groups = [
        Group(
            group["name"],
            len(group["params"]),
            sum(parameter.numel() for parameter in group["params"]),
            group["peak_lr"],
            group["weight_decay"],
        )
        for group in parameter_groups(model, config.train)
    ]
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts[next(part for prefix, part in PARTS.items() if name.startswith(prefix))] += parameter.numel()
    trained = sum(group.parameters for group in groups)
    return Parameters(groups, dict(parts), trained, sum(parts.values()) - trained)


def _disk(config: Config, corpus: Corpus) -> Disk:
    prepare = config.prepare
    raw = corpus.videos * prepare.max_frames * prepare.side**2 * 3
    return Disk(corpus.videos, raw, round(raw * JPEG_SHARE), corpus.stored_bytes)

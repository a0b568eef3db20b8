"""The one training loop: the same for Ray Train workers and for a plain process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.data.batches import check_fit, make_batch
from gare.data.order import Sample, epoch_batches, steps_per_epoch
from gare.data.shards import ShardSet, Split
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.ranks import Ranks
from gare.retrieval.evaluate import evaluate
from gare.retrieval.metrics import HIGHER_IS_BETTER
from gare.training.optimiser import freeze, learning_rate_factor, make_optimiser, set_learning_rates
from gare.training.run import HISTORY_FILE, RunState, RunSummary, open_run, run_directory, summary, write_state
from gare.training.state import keep_only, restore, save_checkpoint
from gare.training.step import train_step

Report = Callable[[dict[str, Any]], None]
"""Called on every rank after each epoch with its metrics; ``history`` holds the rows recorded since the last."""

OnRow = Callable[[dict[str, Any]], None]
"""Called on rank 0 with every row of the run's history as it is recorded."""


def choose_device(config: Config) -> torch.device:
    """The device of the settings; ConfigError when cuda is asked for and absent."""
    if config.runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, but torch sees no GPU here; use auto or cpu.")
    use_cuda = config.runtime.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")


def train(config: Config, ranks: Ranks, report: Report, on_row: OnRow | None = None) -> RunSummary:
    """Train to the end of the run, from its last checkpoint if it has one. Call on every rank."""
    torch.set_num_threads(config.runtime.cpu_threads)
    data = _open_data(config)
    folder, per_rank = run_directory(config), config.train.global_batch // ranks.size
    state = open_run(config, data.digest) if ranks.rank == 0 else RunState("", "")
    state = _shared(state, ranks)
    if state.finished:
        return summary(config, state, already=True)
    model, tokenizer, optimiser = _build(config, data.shards)
    resumed_from = state.epoch or None
    if state.last is not None:
        restore(folder, state.last, model, optimiser)
    history = History(folder / HISTORY_FILE, state.step, on_row) if ranks.rank == 0 else None
    clock = time.monotonic() - state.seconds

    while state.epoch < config.train.epochs:
        for samples in data.batches(config, state.epoch):
            set_learning_rates(optimiser, learning_rate_factor(state.step, data.steps, config.train.warmup))
            batch = make_batch(data.train, samples[ranks.own(per_rank)], tokenizer, config)
            values = train_step(model, optimiser, batch, config, ranks, state.step)
            state.step += 1
            if history and (state.step % config.runtime.log_every == 0 or state.step == data.steps):
                seconds = time.monotonic() - clock
                history.add(state.step, data.steps, seconds, {f"train/{k}": v for k, v in values.items()})
        state.epoch += 1
        metrics = {f"dev/{k}": v for k, v in evaluate(model, tokenizer, data.dev, config, ranks=ranks).metrics.items()}
        state.seconds = time.monotonic() - clock
        if history:
            history.add(state.step, data.steps, state.seconds, {"epoch": state.epoch, **metrics})
            _record(folder, model, optimiser, config, state, metrics)
        report({"epoch": state.epoch, "step": state.step, **metrics, "history": history.take() if history else []})
    return summary(config, _shared(state, ranks), resumed_from=resumed_from)


@dataclass(frozen=True)
class _Data:
    """The splits of a run and how many steps they make."""

    shards: ShardSet
    train: Split
    dev: Split
    captions: list[int]
    steps: int

    @property
    def digest(self) -> str:
        return self.shards.digest

    def batches(self, config: Config, epoch: int) -> list[list[Sample]]:
        train = config.train
        return epoch_batches(self.captions, train.global_batch, config.data.captions, seed=train.seed, epoch=epoch)


def _open_data(config: Config) -> _Data:
    """Open the splits of the settings, and refuse what cannot be trained on."""
    if config.train.select_by not in HIGHER_IS_BETTER:
        known = ", ".join(HIGHER_IS_BETTER)
        raise ConfigError(
            f"train.select_by is {config.train.select_by!r}, which cannot choose a checkpoint; there are {known}."
        )
    shards = open_shards(config)
    split, dev = shards.split(config.data.train_split), shards.split(config.data.dev_split)
    captions = [len(video.captions) for video in split.videos]
    per_epoch = steps_per_epoch(captions, config.train.global_batch, config.data.captions)
    if per_epoch == 0:
        raise InputError(
            f"The split {split.name!r} of {shards.folder} has {sum(captions)} captions over {len(captions)} videos, "
            f"less than one batch of train.global_batch = {config.train.global_batch}."
        )
    return _Data(shards, split, dev, captions, per_epoch * config.train.epochs)


def _build(config: Config, shards: ShardSet) -> tuple[GareModel, Tokenizer, Optimizer]:
    """The model of the settings as the seed draws it, on its device, with its optimiser."""
    device = choose_device(config)
    torch.manual_seed(config.train.seed)
    model = GareModel.from_clip(config.model.clip, config.model)
    tokenizer = check_fit(model, shards, config)
    freeze(model, config.train)
    model.to(device)
    return model, tokenizer, make_optimiser(model, config.train)


def open_shards(config: Config) -> ShardSet:
    """The shards of the settings; ConfigError when none are named."""
    if config.runtime.shards is None:
        raise ConfigError("No shards are named; give --shards DIR or set runtime.shards to a folder of gare prepare.")
    return ShardSet(config.runtime.shards)


class History:
    """The run's record of training, a JSON line per entry, kept to what the run has truly reached."""

    def __init__(self, path: Path, step: int, on_row: OnRow | None = None) -> None:
        self._path, self._on_row = path, on_row
        rows = []
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step), encoding="utf-8")
        self._fresh: list[dict[str, Any]] = []

    def add(self, step: int, total: int, seconds: float, values: dict[str, Any]) -> None:
        """Append one entry."""
        row = {"step": step, "total": total, "seconds": round(seconds, 3), **values}
        self._fresh.append(row)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        if self._on_row is not None:
            self._on_row(row)

    def take(self) -> list[dict[str, Any]]:
        """The entries added since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


def _record(
    folder: Path, model: GareModel, optimiser: Optimizer, config: Config, state: RunState, metrics: dict[str, float]
) -> None:
    """Save the epoch's checkpoint, then the state that points to it, then drop what neither best nor last."""
    key = f"dev/{config.train.select_by}"
    state.last = save_checkpoint(folder, model, optimiser, config, state, metrics)
    if state.best is None or metrics[key] > state.best_metrics[key]:
        state.best, state.best_metrics = state.last, metrics
    state.finished = state.epoch == config.train.epochs
    write_state(folder, state)
    keep_only(folder, {state.last, state.best})


def _shared(state: RunState, ranks: Ranks) -> RunState:
    """Rank 0's state on every rank."""
    return RunState(**json.loads(ranks.share_text(json.dumps(asdict(state)))))

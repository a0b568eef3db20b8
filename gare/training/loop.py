"""The one training loop: the same for Ray Train workers and for a plain process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from gare.common.console import warn
from gare.config import Config
from gare.data.batches import check_fit, make_batch
from gare.data.fit import check_random_crop
from gare.data.shards import ShardSet
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.ranks import Ranks
from gare.retrieval.evaluation.evaluate import evaluate
from gare.training.history import History, OnRow
from gare.training.inputs import TEMPORAL_AT_RANDOM, TrainingData, choose_device, open_data
from gare.training.optimiser import freeze, learning_rate_factor, make_optimiser, set_learning_rates
from gare.training.run import (
    HISTORY_FILE,
    RunState,
    RunSummary,
    clip_source,
    open_run,
    run_directory,
    summary,
    write_state,
)
from gare.training.state import keep_only, restore, save_checkpoint
from gare.training.step import train_step

Report = Callable[[dict[str, Any]], None]
"""Called on every rank after each epoch with its metrics; ``history`` holds the rows recorded since the last."""


def train(config: Config, ranks: Ranks, report: Report, on_row: OnRow | None = None) -> RunSummary:
    """Train to the end of the run, from its last checkpoint if it has one. Call on every rank."""
    torch.set_num_threads(config.runtime.cpu_threads)
    data = open_data(config)
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
            batch = make_batch(
                data.train, samples[ranks.own(per_rank)], tokenizer, config, model.image_size, epoch=state.epoch
            )
            values = train_step(model, optimiser, batch, config, ranks, state.step)
            state.step += 1
            if history and (state.step % config.runtime.log_every == 0 or state.step == data.steps):
                seconds = time.monotonic() - clock
                history.add(state.step, data.steps, seconds, {f"train/{k}": v for k, v in values.items()})
        state.epoch += 1
        metrics = _on_dev(model, tokenizer, data, config, ranks)
        state.seconds = time.monotonic() - clock
        if history:
            history.add(state.step, data.steps, state.seconds, {"epoch": state.epoch, **metrics})
            _record(folder, model, optimiser, config, state, metrics)
        report({"epoch": state.epoch, "step": state.step, **metrics, "history": history.take() if history else []})
    return summary(config, _shared(state, ranks), resumed_from=resumed_from)


def _build(config: Config, shards: ShardSet) -> tuple[GareModel, Tokenizer, Optimizer]:
    """The model of the settings as the seed draws it, on its device, with its optimiser."""
    device = choose_device(config)
    torch.manual_seed(config.train.seed)
    model = GareModel.from_clip(clip_source(config), config.model)
    tokenizer = check_fit(model, shards, config)
    check_random_crop(shards, config, model.image_size)
    if not model.temporal_from_text:
        warn(TEMPORAL_AT_RANDOM)
    freeze(model, config.train)
    model.to(device)
    return model, tokenizer, make_optimiser(model, config.train)


def _on_dev(
    model: GareModel, tokenizer: Tokenizer, data: TrainingData, config: Config, ranks: Ranks
) -> dict[str, float]:
    """The dev split's metrics, none where no dev split is held out."""
    if data.dev is None:
        return {}
    metrics = evaluate(model, tokenizer, data.dev, config, ranks=ranks).metrics
    return {f"dev/{name}": value for name, value in metrics.items()}


def _record(
    folder: Path, model: GareModel, optimiser: Optimizer, config: Config, state: RunState, metrics: dict[str, float]
) -> None:
    """Save the epoch's checkpoint, then the state that points to it, then drop what neither best nor last."""
    key = f"dev/{config.train.select_by}"
    state.last = save_checkpoint(folder, model, optimiser, config, state, metrics)
    if state.best is None or not metrics or metrics[key] > state.best_metrics[key]:
        state.best, state.best_metrics = state.last, metrics
    state.finished = state.epoch == config.train.epochs
    write_state(folder, state)
    keep_only(folder, {state.last, state.best})


def _shared(state: RunState, ranks: Ranks) -> RunState:
    """Rank 0's state on every rank."""
    return RunState(**json.loads(ranks.share_text(json.dumps(asdict(state)))))

"""The training loop, the same for Ray Train workers and for a plain process."""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.optim import Optimizer

from gare.common.console import warn
from gare.common.signals import Stopped, held
from gare.config import Config
from gare.data.batches import check_fit, check_random_crop, unlike_prepared
from gare.data.feed import Feed
from gare.data.shards import ShardSet
from gare.evaluation.evaluate import evaluate
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.world import World
from gare.runs.checkpoints import Checkpoints, Parts, remove_stale_checkpoints, restore
from gare.runs.inputs import TEMPORAL_AT_RANDOM, TrainingData, choose_device
from gare.runs.layout import HISTORY_FILE, clip_source
from gare.runs.run import Run
from gare.runs.state import History, OnRow, RunState, RunSummary, resumed, summary
from gare.training.frozen import with_embeddings
from gare.training.numerics import numerics, prepare_towers
from gare.training.observe import Observer, Watched
from gare.training.optimiser import freeze, make_optimiser, set_learning_rates, staged_factor
from gare.training.scaler_and_average import Extras
from gare.training.step import train_step
from gare.training.weights import check_same_weights, share_weights, warm_start

Report = Callable[[dict[str, Any]], None]
"""Called on every rank after each epoch with its metrics; ``history`` holds the rows recorded since the last."""


Leave = Callable[[], bool]
"""Called on every rank after each step, with one answer for all: whether to make a checkpoint and end."""


def stay() -> bool:
    """Never leave."""
    return False


def train(
    run: Run,
    world: World,
    report: Report,
    on_row: OnRow | None = None,
    device: str | None = None,
    leave: Leave = stay,
) -> RunSummary:
    """Train to the end of the run, from its last checkpoint if it has one. Call on every rank.

    SIGTERM, where it raises Stopped, ends the step first and makes a checkpoint; so does ``leave``, without an error.
    ``device``: the decision for all ranks; ``runtime.device`` if None. The settings are saved as given.
    """
    with numerics(run.config):
        return _train(run, world, report, on_row, choose_device(device or run.config.runtime.device), leave)


def _train(
    run: Run, world: World, report: Report, on_row: OnRow | None, device: torch.device, leave: Leave
) -> RunSummary:
    config, data = run.config, run.data
    state = _taken_up(run, world)
    if state.finished:
        return summary(config, state, already=True)
    went_on = resumed(state)
    stages = [data.per_epoch * epochs for epochs in state.stages(config)]
    data = replace(data, steps=sum(stages))
    model, tokenizer, optimiser = build_model(config, data.shards, device)
    share_weights(model, world)
    extras = Extras(model, config)
    parts = extras.parts(model, optimiser)
    _load(run, state, parts, extras)
    check_same_weights(model, world, "At the start")
    data = with_embeddings(data, model, tokenizer, config, world)
    state.decided = decided(config, world, device)
    history = History(run.folder / HISTORY_FILE, state.step, on_row) if world.rank == 0 else None
    observer = Observer(run, world, Watched(model, tokenizer, optimiser, data), history, state.seconds)
    own = world.own(config.train.global_batch // world.size)

    # The state changes only while a signal is held back, so that it can be saved at any other moment.
    with Checkpoints(run, world, parts, state.last) as checkpoints, _saved_at_sigterm(checkpoints, state, observer):
        while state.epoch < state.epochs(config):
            batches, at = data.batches(config, state.epoch), (state.epoch, own, device, state.batch)
            with Feed(data.train, batches, tokenizer, config, model.image_size, *at) as feed:
                asked = time.monotonic()
                for batch in feed:
                    observer.before_step(state.step, batch)
                    with held(signal.SIGTERM):
                        set_learning_rates(optimiser, staged_factor(state.step, stages, config.train.warmup))
                        values = train_step(
                            model, optimiser, batch, config, world, state.step, scaler=extras.scaler, ema=extras.ema
                        )
                        state.step, state.batch = state.step + 1, state.batch + 1
                        seconds = time.monotonic() - asked
                        observer.after_step(state.step, values, feed.waited_s, seconds, config.train.global_batch)
                        checkpoints.after_step(state, observer.seconds, len(batches))
                    if leave():
                        checkpoints.now(state, observer.seconds)
                        return summary(config, _shared(state, world), resumed=went_on)
                    asked = time.monotonic()
            check_same_weights(model, world, f"After epoch {state.epoch + 1}")
            with extras.evaluated():
                metrics = _on_dev(model, tokenizer, data, config, world)
            with held(signal.SIGTERM):
                state.epoch, state.batch = state.epoch + 1, 0
                observer.after_epoch(state.step, state.epoch, metrics)
                checkpoints.after_epoch(state, observer.seconds, metrics)
                rows = history.take() if history else []
                report({"epoch": state.epoch, "step": state.step, **metrics, "history": rows})
    return summary(config, _shared(state, world), resumed=went_on)


@contextmanager
def _saved_at_sigterm(checkpoints: Checkpoints, state: RunState, observer: Observer) -> Iterator[None]:
    """Make a checkpoint if SIGTERM ends the block: the machine may be about to go away."""
    try:
        yield
    except Stopped as stopped:
        if stopped.number == signal.SIGTERM:
            checkpoints.now(state, observer.seconds)
        raise


def _taken_up(run: Run, world: World) -> RunState:
    """Return the run's record, read or made by rank 0, after it has removed what a killed process left."""
    state = RunState("", "")
    if world.rank == 0:
        state = run.hand_over()
        remove_stale_checkpoints(run.folder, state)
    return _shared(state, world)


def build_model(config: Config, shards: ShardSet, device: torch.device) -> tuple[GareModel, Tokenizer, Optimizer]:
    """Build the seeded model of the settings on its device, with its tokenizer and its optimiser."""
    torch.manual_seed(config.train.seed)
    model = GareModel.from_clip(clip_source(config), config.model)
    tokenizer = check_fit(model, shards, config)
    check_random_crop(shards, config, model.image_size)
    unlike = unlike_prepared(model.pixels, shards.short_side, config.data)
    for remark in (None if model.temporal_from_text else TEMPORAL_AT_RANDOM, unlike):
        if remark is not None:
            warn(remark)
    freeze(model, config.train)
    model.to(device)
    prepare_towers(model, config.train)
    return model, tokenizer, make_optimiser(model, config.train)


def decided(config: Config, world: World, device: torch.device) -> dict[str, Any]:
    """Return the machine's own decisions and versions, in addition to the given settings."""
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "workers": world.size,
        "threads": torch.get_num_threads(),
        "precision": config.train.precision,
        "tf32": config.train.tf32 and device.type == "cuda",
        "deterministic": config.train.deterministic,
        "torch": torch.__version__,
    }


def _load(run: Run, state: RunState, parts: Parts, extras: Extras) -> None:
    """Continue from the run's last checkpoint, or start with the weights of another one."""
    if state.last is not None:
        run.storage.checkpoint(state.last)
        restore(run.folder, state, parts)
    elif run.config.train.init_from is not None:
        state.init_from = warm_start(parts.model, run.config)
        extras.restart()


def _on_dev(
    model: GareModel, tokenizer: Tokenizer, data: TrainingData, config: Config, world: World
) -> dict[str, float]:
    """Return the dev split's metrics, empty if no dev split is held out."""
    if data.dev is None:
        return {}
    metrics = evaluate(model, tokenizer, data.dev, config, world=world).metrics
    return {f"dev/{name}": value for name, value in metrics.items()}


def _shared(state: RunState, world: World) -> RunState:
    """Return rank 0's state on every rank."""
    return RunState(**json.loads(world.share_text(json.dumps(asdict(state)))))

"""Train in this process, without Ray: a whole run, or a few steps to measure their cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from gare.config import Config
from gare.data.feed import Feed
from gare.evaluation.evaluate import evaluate
from gare.launch.placement import placement_tags
from gare.launch.progress import training_view
from gare.objective.world import SINGLE
from gare.runs.inputs import TrainingData, choose_device, open_data
from gare.runs.layout import absolute
from gare.runs.run import Run
from gare.runs.state import RunSummary
from gare.tracking import note_down, syncing
from gare.tracking.system import watching
from gare.training.loop import Report, build_model, train
from gare.training.numerics import numerics
from gare.training.optimiser import learning_rate_factor, set_learning_rates
from gare.training.scaler_and_average import Extras
from gare.training.step import train_step

WARM_UP_STEPS = 1
MOST_STEPS = 5
SECONDS_OF_STEPS = 10.0
DEV_VIDEOS = 64


def fit_local(run: Run | Config, *, quiet: bool = False, report: Report | None = None) -> RunSummary:
    """Run the training loop here, as one rank; the losses are those of one Ray Train worker.

    ``run``: an opened run, or settings, whose run is opened here. ``quiet``: show no progress. ``report``: called after
    each epoch with its metrics.
    """
    run = Run.of(run)
    runtime, folder = run.config.runtime, run.folder
    device = choose_device(runtime.device)
    _ = run.data  # unusable data raises before a folder is made
    with (
        training_view(run.config.run_name(), run.take_up().epochs(run.config), quiet=quiet) as on_row,
        syncing(folder, wanted=runtime.tracking) as tracked,
        watching(folder, 0, runtime.system_metrics if tracked else None),
    ):
        note_down(folder, tags=placement_tags(1, device.type))
        return train(run, SINGLE, report or (lambda _: None), on_row)


@dataclass(frozen=True)
class TrainingCost:
    """Seconds of one process that holds the whole global batch, on ``device``.

    ``set_up_s``: opening the data and building the model. ``step_s``: a step and the wait for its batch, the median of
    ``steps`` after ``WARM_UP_STEPS`` that are left out. ``dev_s``: evaluating the dev split once, scaled up from its
    first ``dev_videos``; 0 if nothing is evaluated.
    """

    device: str
    set_up_s: float
    step_s: float
    steps: int
    dev_s: float
    dev_videos: int


def measure_cost(config: Config) -> TrainingCost:
    """Train the experiment for a few steps without a run folder: at least one, and about ten seconds of them.

    Nothing is written. Raises the errors of training for settings, shards or a model that do not fit.
    """
    config, device = absolute(config), choose_device(config.runtime.device)
    with numerics(config):
        began = time.monotonic()
        data = open_data(config)
        model, tokenizer, optimiser = build_model(config, data.shards, device)
        extras = Extras(model, config)
        set_up = time.monotonic() - began
        batches = _batches(data, config)
        taken = []
        with Feed(data.train, batches, tokenizer, config, model.image_size, 0, slice(None), device) as feed:
            asked = time.monotonic()
            for step, batch in enumerate(feed):
                set_learning_rates(optimiser, learning_rate_factor(step, data.steps, config.train.warmup))
                train_step(model, optimiser, batch, config, SINGLE, step, scaler=extras.scaler, ema=extras.ema)
                taken.append(time.monotonic() - asked)
                if step >= WARM_UP_STEPS and sum(taken[WARM_UP_STEPS:]) > SECONDS_OF_STEPS:
                    break
                asked = time.monotonic()
        kept = taken[WARM_UP_STEPS:] or taken
        dev_s, videos = 0.0, 0
        if data.dev is not None:
            part = data.dev.first(DEV_VIDEOS)
            asked, videos = time.monotonic(), len(part)
            with extras.evaluated():
                evaluate(model, tokenizer, part, config)
            dev_s = (time.monotonic() - asked) * len(data.dev) / videos
        return TrainingCost(str(device), set_up, median(kept), len(kept), dev_s, videos)


def _batches(data: TrainingData, config: Config) -> list[list[tuple[int, int]]]:
    """Return the first batches of training, from as many epochs as needed."""
    found: list[list[tuple[int, int]]] = []
    for epoch in range(config.train.epochs):
        found += data.batches(config, epoch)
        if len(found) >= WARM_UP_STEPS + MOST_STEPS:
            break
    return found[: WARM_UP_STEPS + MOST_STEPS]

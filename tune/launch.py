"""Launch Ray Tune once over trials in the sweep's record; Tune's own state is not kept."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from gare.common.errors import ConfigError
from gare.config import Config
from gare.config.tree import build
from gare.launch.placement import rank_selector
from gare.runs.layout import HISTORY_FILE
from gare.runs.state import read_history
from tune.record import SweepRecord
from tune.recorder import TuneCallback
from tune.space import parse_space
from tune.trial import Trainer, TrialActor

TUNE_FOLDER = ".tune"
HALVING = 2
# A trial's own process only waits for its workers: it takes no CPU, and Tune refuses a request for nothing at all.
ACTOR_RESOURCES = {"memory": 1}
# How often a trial is restarted from its last checkpoint if its own process died.
RESTARTS = 1
EPOCHS = "train.epochs"


class Listed(Searcher):  # type: ignore[misc]
    """A searcher that suggests the trials of a list, in order; each is opened only when its turn comes."""

    def __init__(self, todo: Sequence[int], chosen: Callable[[int], dict[str, Any]]) -> None:
        super().__init__()
        self._todo, self._chosen = list(todo), chosen

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next one."""
        del trial_id
        return self._chosen(self._todo.pop(0)) if self._todo else str(self.FINISHED)

    def on_trial_complete(self, *event: Any, **named: Any) -> None:
        """Do nothing: the list is fixed."""

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the sweep's record is authoritative."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


def launch(
    sweep: dict[str, Any],
    trainer: Trainer,
    searcher: Searcher,
    count: int,
    *,
    at_once: int,
    scheduler: Any,
    callback: TuneCallback,
    folder: Path,
) -> None:
    """Run ``count`` trials of a sweep as ``searcher`` suggests them, ``at_once`` at a time; processes are reused.

    They are placed on the nodes that ranks may run on. ``sweep``: its settings as plain values.
    """
    selector = rank_selector(build(sweep).runtime)
    resources = ray_tune.PlacementGroupFactory([ACTOR_RESOURCES], bundle_label_selector=[selector])
    trainable = ray_tune.with_resources(ray_tune.with_parameters(TrialActor, sweep=sweep, trainer=trainer), resources)
    with _quiet_tune():
        ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                num_samples=count,
                max_concurrent_trials=at_once,
                scheduler=scheduler,
                search_alg=searcher,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=ray_tune.RunConfig(
                name=f"launch-{time.time_ns()}",
                storage_path=str(folder / TUNE_FOLDER),
                callbacks=[callback],
                # A trial's checkpoints are its run's own.
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=ray_tune.FailureConfig(max_failures=RESTARTS),
                verbose=0,
            ),
        ).fit()


def asha(config: Config, record: SweepRecord) -> Any:
    """Return Tune's scheduler that stops weak trials, with the epochs of earlier trials; None if none is configured.

    Raises ConfigError if it could not stop any.
    """
    if config.sweep.scheduler == "none":
        return None
    epochs = _most_epochs(config, record)
    if config.sweep.grace_epochs >= epochs:
        raise ConfigError(
            f"sweep.grace_epochs is {config.sweep.grace_epochs}, but trials have {epochs} epochs, so asha could stop "
            "none; lower it or set sweep.scheduler: none."
        )
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=config.sweep.metric,
        mode=config.sweep.mode,
        max_t=epochs,
        grace_period=config.sweep.grace_epochs,
        reduction_factor=HALVING,
    )
    for trial in record.trials:
        if trial.settled and trial.stage == "search":
            _tell(scheduler, trial.name, Path(trial.directory))
    return scheduler


def _most_epochs(config: Config, record: SweepRecord) -> int:
    swept = [trial.overrides[EPOCHS] for trial in record.trials if EPOCHS in trial.overrides]
    if not swept and config.sweep.search != "random":
        swept = [value for dimension in parse_space(config) if dimension.key == EPOCHS for value in dimension.values]
    return max(swept, default=config.train.epochs)


def _tell(scheduler: Any, name: str, folder: Path) -> None:
    """Show the scheduler the epochs of a trial of an earlier launch, as if they came now."""
    rows = [row for row in read_history(folder / HISTORY_FILE) if "epoch" in row]
    if rows:
        past = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, past)
        for row in rows:
            scheduler.on_trial_result(None, past, row)
        scheduler.on_trial_remove(None, past)


def _name(trial: Any) -> str:
    return str(trial.config["name"])


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Silence Tune's own tables, files and log lines: the recorder reports the progress."""
    wanted = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command handles Ctrl-C itself, like all others
    }
    before = {name: os.environ.get(name) for name in wanted}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(wanted)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""Ray Tune over Ray Train runs. Ray is initialised by the caller.

The driver alone writes the sweep's record and ends the MLflow runs; a trial trains and says how it ended.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from gare.common.errors import ConfigError, RunError
from gare.common.files import digest_of, only_one
from gare.config import Config
from gare.config.tree import build, with_overrides
from gare.tracking import RunHandle, Tracker
from gare.training.placement import groups_that_fit
from gare.training.ray_train import cluster_nodes
from gare.training.run import absolute
from tune.compare import Comparison, check_metric, compare
from tune.ledger import SWEEP_FILE, Ledger, Trial
from tune.recorder import Recorder, TuneCallback
from tune.space import Overrides, expand
from tune.trial import Job, Trainer, run_trial, train_with_ray

TUNE_FOLDER = ".tune"
HALVING = 2
# A trial's driver only waits for its workers: it takes no CPU, and Tune refuses a request for nothing at all.
DRIVER_RESOURCES = {"memory": 1}

OnProgress = Callable[[Trial, int, int], None]
"""Called when a trial ended, with how many have and how many there are."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep came to: its folder, its record and the comparison of its trials."""

    directory: Path
    ledger: Ledger
    comparison: Comparison


def run_sweep(config: Config, *, on_progress: OnProgress, trainer: Trainer = train_with_ray) -> SweepReport:
    """Train every trial of ``config.sweep`` that is not done yet, and compare them.

    A trial that fails is recorded and the others go on. Raises ConfigError for a space that makes no sense,
    RunError when a trial cannot fit the cluster, when all fail, when the sweep was interrupted, or when another process
    is at it.
    """
    check_metric(config)
    config = _resolved(config)
    trials = expand(config)
    scheduler = _scheduler(config, trials)
    at_once = min(concurrent_trials(config, cluster_nodes()), config.sweep.max_concurrent or len(trials))
    folder = Path(config.runtime.output) / config.run_name()
    with only_one(folder):
        ledger = _open_ledger(config, trials, folder)
        tracker = Tracker.open(config.runtime) if config.runtime.tracking else None
        recorder = Recorder(folder, ledger, tracker, on_progress)
        recorder.start(config, _dataset(config))
        todo = [index for index, trial in enumerate(ledger.trials) if trial.status not in {"done", "stopped"}]
        try:
            if todo:
                jobs = [_job(config, trial, tracker) for trial in ledger.trials]
                _tune(config, todo, jobs, at_once, scheduler, trainer, TuneCallback(recorder))
        finally:
            recorder.close()
        _raise_unfinished(ledger)
        comparison = compare(folder)
        recorder.conclude(comparison)
        return SweepReport(folder, ledger, comparison)


def concurrent_trials(config: Config, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many trials the nodes, each given by its resources, can train at the same time.

    Tune does not count the workers of its trials, and trials that share too few CPUs wait for each other for
    ever. Raises RunError when not even one fits.
    """
    return groups_that_fit(config.runtime, nodes, "A trial")


def sweep_name(config: Config) -> str:
    """``runtime.name``, or a name from the experiment and the sweep around it."""
    return config.runtime.name or f"sweep-{_key(config)}"


def _key(config: Config) -> str:
    sweep = config.sweep.model_dump(mode="json", exclude={"max_concurrent"})
    return digest_of({"experiment": config.experiment(), "sweep": sweep})


def _resolved(config: Config) -> Config:
    """Fill in the sweep's name and make paths absolute: trials run in other folders."""
    return absolute(with_overrides(config, {"runtime.name": sweep_name(config)}))


def _open_ledger(config: Config, trials: Sequence[Overrides], folder: Path) -> Ledger:
    """Take up the folder's record where it is of this very sweep, else make a new one."""
    key = _key(config)
    if (folder / SWEEP_FILE).is_file():
        ledger = Ledger.read(folder)
        if ledger.key != key:
            raise ConfigError(f"{folder} holds another sweep ({ledger.key}, not {key}); choose another runtime.name.")
        return ledger
    if folder.is_dir() and (folder / "run.json").is_file():
        raise ConfigError(f"{folder} holds a training run; choose another runtime.name.")
    rows = []
    for index, overrides in enumerate(trials):
        name = f"trial-{index:03d}"
        rows.append(Trial(name=name, overrides=overrides, directory=str(folder / name)))
    return Ledger(name=config.run_name(), key=key, config=config.model_dump(mode="json"), trials=rows)


def trial_config(config: Config, trial: Trial) -> Config:
    """Build the settings of one trial: an ordinary experiment, in a folder of its own inside the sweep's."""
    values = with_overrides(config, trial.overrides).model_dump(mode="json")
    values["runtime"]["name"] = f"{config.run_name()}/{trial.name}"
    del values["sweep"]
    return build(values)


def _job(config: Config, trial: Trial, tracker: Tracker | None) -> Job:
    handle = RunHandle(tracker.uri, tracker.experiment, trial.run_id) if tracker and trial.run_id else None
    return Job(
        config=trial_config(config, trial).model_dump(mode="json"),
        metric=config.sweep.metric,
        tracking=handle,
        report_epochs=config.sweep.scheduler == "asha",
    )


def _tune(
    config: Config,
    todo: Sequence[int],
    jobs: Sequence[Job],
    at_once: int,
    scheduler: Any,
    trainer: Trainer,
    callback: TuneCallback,
) -> None:
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(partial(run_trial, trainer=trainer), jobs=list(jobs)), DRIVER_RESOURCES
    )
    with _quiet_tune():
        ray_tune.Tuner(
            trainable,
            param_space={"trial": ray_tune.grid_search(list(todo))},
            tune_config=ray_tune.TuneConfig(max_concurrent_trials=at_once, scheduler=scheduler),
            run_config=ray_tune.RunConfig(
                name=f"launch-{time.time_ns()}",
                storage_path=str(Path(config.runtime.output) / config.run_name() / TUNE_FOLDER),
                callbacks=[callback],
                verbose=0,
            ),
        ).fit()


def _scheduler(config: Config, trials: Sequence[Overrides]) -> Any:
    if config.sweep.scheduler == "none":
        return None
    epochs = max(trial.get("train.epochs", config.train.epochs) for trial in trials)
    if config.sweep.grace_epochs >= epochs:
        raise ConfigError(
            f"sweep.grace_epochs is {config.sweep.grace_epochs}, but trials have {epochs} epochs, so asha could stop "
            "none; lower it or set sweep.scheduler: none."
        )
    return ASHAScheduler(
        time_attr="epoch",
        metric=config.sweep.metric,
        mode=config.sweep.mode,
        max_t=epochs,
        grace_period=config.sweep.grace_epochs,
        reduction_factor=HALVING,
    )


def _dataset(config: Config) -> dict[str, str]:
    if config.runtime.shards is None:
        return {}
    from gare.data.shards import ShardSet

    shards = ShardSet(config.runtime.shards)
    return {"dataset_digest": shards.digest, "recipe_digest": shards.manifest["recipe_digest"]}


def _raise_unfinished(ledger: Ledger) -> None:
    open_trials = [trial for trial in ledger.trials if not trial.ended]
    if open_trials:
        raise RunError(
            f"The sweep {ledger.name} was interrupted with {len(open_trials)} of {len(ledger.trials)} trials to go; "
            "the same command goes on."
        )
    if all(trial.status == "failed" for trial in ledger.trials):
        raise RunError(f"All {len(ledger.trials)} trials failed; the first: {ledger.trials[0].error}")


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune's own tables, files and log lines away: the recorder says what happens."""
    wanted = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
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

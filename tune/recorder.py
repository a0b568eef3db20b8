"""The driver's view of a sweep: keeps ``sweep.json`` and the MLflow runs as trials start and end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from gare.config import Config
from gare.config.tree import with_overrides
from gare.tracking import Status, Tracker
from gare.training.run import CHECKPOINTS, read_state
from tune.compare import Comparison
from tune.ledger import SWEEP_FILE, Ledger, Trial, finite
from tune.trial import OUTCOME

MLFLOW_STATUS: dict[str, Status] = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Recorder:
    """Writes down what happens; ``tracker`` None keeps MLflow out of it."""

    def __init__(
        self, folder: Path, ledger: Ledger, tracker: Tracker | None, on_progress: Callable[[Trial, int, int], None]
    ) -> None:
        self._folder, self._ledger, self._tracker, self._on_progress = folder, ledger, tracker, on_progress
        self._started: dict[int, float] = {}
        self._select_by: dict[int, str] = {}

    def start(self, config: Config, dataset: Mapping[str, str]) -> None:
        """Open the parent run and a child run for every trial still to be trained, and write the record."""
        for index, trial in enumerate(self._ledger.trials):
            values = with_overrides(config, trial.overrides)
            self._select_by[index] = f"dev/{values.train.select_by}"
            if trial.status in {"done", "stopped"}:
                continue
            trial.status, trial.error, trial.metrics = "pending", None, {}
        if self._tracker is not None:
            self._open_runs(self._tracker, config, dataset)
        self._ledger.write(self._folder)

    def trial_started(self, index: int) -> None:
        """Note that a trial began to train."""
        self._started[index] = time.monotonic()
        self._ledger.trials[index].status = "running"
        self._ledger.write(self._folder)

    def epoch(self, index: int, metrics: Mapping[str, Any]) -> None:
        """Keep the metrics of a trial's best epoch so far, in case it is stopped."""
        trial, key = self._ledger.trials[index], self._select_by[index]
        found = finite({name: value for name, value in metrics.items() if name.startswith("dev/")})
        if found.get(key, -math.inf) > trial.metrics.get(key, -math.inf):
            trial.metrics = found

    def trial_ended(self, index: int, outcome: Mapping[str, Any]) -> None:
        """Note that a trial ended: ``outcome`` as it reported it, empty when the scheduler stopped it."""
        trial = self._ledger.trials[index]
        trial.status = outcome.get("status", "stopped")
        trial.error = outcome.get("error")
        trial.best = outcome.get("best")
        if "metrics" in outcome:
            trial.metrics = finite(dict(outcome["metrics"]))
        elif trial.status == "stopped":
            self._take_up(trial)
        trial.seconds += time.monotonic() - self._started.get(index, time.monotonic())
        self._ledger.write(self._folder)
        if self._tracker is not None and trial.run_id is not None:
            tags = {"gare.trial_status": trial.status} | ({"gare.error": trial.error} if trial.error else {})
            self._tracker.tag(trial.run_id, tags)
            self._tracker.metrics(trial.run_id, _best(trial), int(outcome.get("steps", 0)))
            self._tracker.finish(trial.run_id, MLFLOW_STATUS[trial.status])
        ended = sum(trial.ended for trial in self._ledger.trials)
        self._on_progress(trial, ended, len(self._ledger.trials))

    def _take_up(self, trial: Trial) -> None:
        """A stopped trial's best epoch from its run folder, which knows of epochs before a resume too."""
        state = read_state(Path(trial.directory))
        if state is not None and state.best is not None:
            trial.metrics = finite(state.best_metrics)
            trial.best = str(Path(trial.directory) / CHECKPOINTS / state.best)

    def close(self) -> None:
        """End what was interrupted: no trial runs any more."""
        for trial in self._ledger.trials:
            if not trial.ended:
                trial.status = "pending"
                if self._tracker is not None and trial.run_id is not None:
                    self._tracker.finish(trial.run_id, "KILLED")
        self._ledger.write(self._folder)
        if self._tracker is not None and self._ledger.run_id is not None:
            failed = all(trial.status == "failed" for trial in self._ledger.trials)
            self._tracker.finish(self._ledger.run_id, "FAILED" if failed else "KILLED")

    def conclude(self, comparison: Comparison) -> None:
        """End the parent run, with the best trial's metrics and the comparison's files."""
        if self._tracker is None or self._ledger.run_id is None or comparison.best is None:
            return
        self._tracker.resume(self._ledger.run_id)
        self._tracker.metrics(self._ledger.run_id, _best(comparison.best), step=0)
        self._tracker.tag(self._ledger.run_id, {"gare.best_trial": comparison.best.name})
        for path in (self._folder / SWEEP_FILE, comparison.plot, comparison.best_config):
            if path is not None:
                self._tracker.artifact(self._ledger.run_id, path)
        self._tracker.finish(self._ledger.run_id)

    def _open_runs(self, tracker: Tracker, config: Config, dataset: Mapping[str, str]) -> None:
        ledger = self._ledger
        if ledger.run_id is not None:
            tracker.resume(ledger.run_id)
        else:
            ledger.run_id = tracker.start(ledger.name, config=config, tags={"gare.kind": "sweep"})
            tracker.dataset(ledger.run_id, dataset)
        for trial in ledger.trials:
            if trial.status != "pending":
                continue
            if trial.run_id is not None:
                tracker.resume(trial.run_id)
                continue
            tags = {"gare.kind": "trial", "gare.trial": trial.name}
            settings = with_overrides(config, trial.overrides)
            trial.run_id = tracker.start(
                f"{ledger.name}/{trial.name}", config=settings, tags=tags, parent_run_id=ledger.run_id
            )
            tracker.dataset(trial.run_id, dataset)


def _best(trial: Trial) -> dict[str, float]:
    return {f"best/{name}": value for name, value in trial.metrics.items()}


class TuneCallback(ray_tune.Callback):  # type: ignore[misc]
    """Hands Tune's events to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder: Recorder | None = recorder

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; an open MLflow store does not travel."""
        return {"_recorder": None}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the start."""
        del iteration, trials, info
        if self._recorder:
            self._recorder.trial_started(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note an epoch's metrics."""
        del iteration, trials, info
        if self._recorder and OUTCOME not in result:
            self._recorder.epoch(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the end."""
        del iteration, trials, info
        if self._recorder:
            self._recorder.trial_ended(trial.config["trial"], (trial.last_result or {}).get(OUTCOME, {}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that the trial's process is gone; an exception inside it is an outcome it reports itself."""
        del iteration, trials, info
        if self._recorder:
            error = "The trial's own process died (killed or out of memory) or could not start."
            self._recorder.trial_ended(trial.config["trial"], {"status": "failed", "error": error})

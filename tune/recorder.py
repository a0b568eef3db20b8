"""Record a sweep in the driver: update ``sweep.json`` and the trackers' records as trials start and end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from gare.config import Config
from gare.config.tree import with_overrides
from gare.launch.ray_controller import release
from gare.launch.tracked import record_files
from gare.runs.layout import CHECKPOINTS
from gare.runs.state import read_state
from gare.tracking import Status, begin, markdown_table, note_down, read_handle, read_record, sync
from tune.comparison import Comparison
from tune.record import SWEEP_FILE, Launch, Stage, SweepRecord, Trial, finite
from tune.space import Planned
from tune.trial import OUTCOME, Zones, chosen, trial_config

STATUS: dict[str, Status] = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
WRITE_SECONDS = 15.0

OnProgress = Callable[[Trial, int, int], None]
"""Called when a trial ended, with the number of ended trials and of all trials."""


class Recorder:
    """Writes down what happens, and decides where a trial runs.

    ``expected``: the total number of trials.
    """

    def __init__(
        self,
        folder: Path,
        record: SweepRecord,
        config: Config,
        on_progress: OnProgress,
        expected: int,
        zones: Zones,
    ) -> None:
        self._folder, self._record, self._config = folder, record, config
        self._on_progress, self.expected = on_progress, max(expected, len(record.trials))
        self._dataset = record.dataset and record.dataset | {"source": str(config.runtime.shards)}
        self._zones = zones
        self._started: dict[int, float] = {}
        self._launch: Launch | None = None
        self._began = self._written = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles the recorder, but never uses the copy."""
        return {}

    def start(self, slots: int, began: float) -> None:
        """Open the parent run and reset interrupted or failed trials; ``began``: the start by the monotonic clock."""
        for trial in self._record.trials:
            if not trial.settled:
                trial.status, trial.error, trial.metrics = "pending", None, {}
        self._began = began
        self._launch = Launch(slots)
        self._record.launches.append(self._launch)
        self._begin_parent()
        self.write()

    def add(self, planned: Planned) -> int:
        """Add one more trial of the search and return its index."""
        self.add_all([planned])
        return len(self._record.trials) - 1

    def add_all(self, planned: Sequence[Planned], stage: Stage = "search") -> None:
        """Add more trials."""
        trials = self._record.trials
        for one in planned:
            name = f"trial-{len(trials):03d}"
            trials.append(Trial(name, dict(one.overrides), str(self._folder / name), case=one.case, stage=stage))
        self.expected = max(self.expected, len(trials))
        if planned:
            self.write()

    def chosen(self, index: int) -> dict[str, Any]:
        """Begin a trial's record, or continue its earlier one, and return the trial's input from Tune."""
        trial = self._record.trials[index]
        trial.attempts += 1
        self._begin_child(trial)
        self.write()
        return chosen(index, trial.name, trial.overrides, self._zones.take(index))

    def trial_started(self, index: int) -> None:
        """Note that a trial began to train."""
        self._started[index] = time.monotonic()
        self._record.trials[index].status = "running"
        self.write()

    def epoch(self, index: int, metrics: Mapping[str, Any]) -> None:
        """Keep the metrics of a trial's best epoch so far, in case it is stopped."""
        trial = self._record.trials[index]
        key = f"dev/{with_overrides(self._config, trial.overrides).train.select_by}"
        found = finite({name: value for name, value in metrics.items() if name.startswith("dev/")})
        if found.get(key, -math.inf) > trial.metrics.get(key, -math.inf):
            trial.metrics = found
        trial.epochs = int(metrics.get("epoch", trial.epochs))

    def trial_broke(self, index: int, *, again: bool) -> None:
        """Note that a trial's own process is gone, and free its workers' resources, before it is started ``again``."""
        trial = self._record.trials[index]
        release(Path(trial.directory))
        trial.seconds += self._since(index)
        trial.status = "pending"
        trial.attempts += again
        self.write()

    def trial_ended(self, index: int, outcome: Mapping[str, Any]) -> None:
        """Note that a trial ended: ``outcome`` as it reported it, empty if the scheduler stopped it."""
        self._zones.give_back(index)
        trial = self._record.trials[index]
        trial.status = outcome.get("status", "stopped")
        trial.error = outcome.get("error")
        trial.best = outcome.get("best")
        if "metrics" in outcome:
            trial.metrics = finite(dict(outcome["metrics"]))
        trial.train_s = float(outcome.get("train_s", trial.train_s))
        trial.epochs = int(outcome.get("epochs", trial.epochs))
        _take_up(trial)
        trial.seconds += self._since(index)
        self.write()
        folder = Path(trial.directory)
        record_files(folder, self._config)
        tags = {"gare.trial_status": trial.status} | ({"gare.error": trial.error} if trial.error else {})
        step = int(outcome.get("steps", 0))
        note_down(folder, tags=tags, metrics=_best(trial), step=step, status=STATUS[trial.status])
        self._sync(trial)
        ended = sum(trial.ended for trial in self._record.trials)
        self._on_progress(trial, ended, self.expected)

    def look(self) -> None:
        """Write the record from time to time, so that a killed sweep's record shows how long it ran."""
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the record."""
        self._written = time.monotonic()
        if self._launch is not None:
            self._launch.wall_s = round(self._written - self._began, 1)
        self._record.write(self._folder)

    def close(self) -> None:
        """Mark interrupted trials: no trial runs any more."""
        for trial in self._record.trials:
            if trial.status == "running":
                _take_up(trial)
                trial.status = "pending"
                note_down(Path(trial.directory), status="KILLED")
                self._sync(trial)
            elif trial.status == "stopped":
                _take_up(trial)  # it may have ended another epoch before it received the stop
        self.write()
        failed = all(trial.status == "failed" for trial in self._record.trials)
        note_down(self._folder, status="FAILED" if failed else "KILLED")
        self._sync()

    def conclude(self, comparison: Comparison) -> None:
        """End the parent run, with the best trial's metrics and the comparison's files."""
        if self._is_unrecorded(self._folder, self._record.run_id):
            self._begin_parent("FINISHED")
        self._sync(again=True)
        for trial in self._record.trials:  # includes what could not be sent before
            if self._is_unrecorded(Path(trial.directory), trial.run_id):
                self._begin_child(trial, STATUS.get(trial.status, "KILLED"))
            self._sync(trial)
        self.write()
        if comparison.best is not None:
            files = [path for path in (self._folder / SWEEP_FILE, *comparison.files) if path is not None]
            note_down(
                self._folder,
                tags={"gare.best_trial": comparison.best.name},
                metrics=_best(comparison.best),
                artifacts={path.name: path for path in files},
                description=markdown_table(*comparison.table()),
                status="FINISHED",
            )
        self._sync()

    def _since(self, index: int) -> float:
        return time.monotonic() - self._started.pop(index, time.monotonic())

    def _sync(self, trial: Trial | None = None, *, again: bool = False) -> None:
        """Bring the tracker up to date with a trial, or with the sweep, and note its id there."""
        row = trial or self._record
        folder = self._folder if trial is None else Path(trial.directory)
        if self._config.runtime.tracking:
            sync(folder, again=again)
            handle = read_handle(folder)
            row.run_id = row.run_id if handle is None else handle.run_id

    def _is_unrecorded(self, folder: Path, run_id: str | None) -> bool:
        """Return True if an earlier version recorded a run in the tracker, and may have left something to send."""
        return self._config.runtime.tracking and run_id is not None and read_record(folder) is None

    def _begin_parent(self, ended: Status | None = None) -> None:
        if self._config.runtime.tracking:
            name = self._record.name
            tags = {"gare.kind": "sweep", "gare.sweep": name}
            self._record.run_id = begin(
                self._folder,
                self._config,
                name,
                tags=tags,
                dataset=self._dataset,
                former=self._record.run_id,
                ended=ended,
            )

    def _begin_child(self, trial: Trial, ended: Status | None = None) -> None:
        if not self._config.runtime.tracking:
            return
        sweep, folder = self._record.name, Path(trial.directory)
        case = {"gare.case": trial.case} if trial.case is not None else {}
        tags = {"gare.kind": "trial", "gare.sweep": sweep, "gare.trial": trial.name, "gare.stage": trial.stage} | case
        trial.run_id = begin(
            folder,
            trial_config(self._config, trial.name, trial.overrides),
            " ".join([f"{sweep}/{trial.name}", *case.values()]),
            tags=tags,
            dataset=self._dataset,
            parent=self._folder,
            former=trial.run_id,
            description=markdown_table(["setting", "value"], trial.overrides.items()),
            ended=ended,
        )


def _take_up(trial: Trial) -> None:
    """Update a trial from its run folder, which includes earlier attempts."""
    state = read_state(Path(trial.directory))
    if state is None:
        return
    trial.train_s, trial.epochs = round(state.seconds, 3), state.epoch
    if trial.status == "stopped" and state.best is not None:
        trial.metrics = finite(state.best_metrics)
        trial.best = str(Path(trial.directory) / CHECKPOINTS / state.best)


def _best(trial: Trial) -> dict[str, float]:
    return {f"best/{name}": value for name, value in trial.metrics.items()}


class TuneCallback(ray_tune.Callback):  # type: ignore[misc]
    """A callback that passes Tune's events to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Keep the record up to date."""
        del iteration, trials, info
        self._recorder.look()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the start."""
        del iteration, trials, info
        self._recorder.trial_started(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note an epoch's metrics."""
        del iteration, trials, info
        if OUTCOME not in result:
            self._recorder.epoch(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the end."""
        del iteration, trials, info
        self._recorder.trial_ended(trial.config["trial"], (trial.last_result or {}).get(OUTCOME, {}))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that the trial's process is gone and that it starts again."""
        del iteration, trials, info
        self._recorder.trial_broke(trial.config["trial"], again=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that the trial's process is gone for good; exceptions inside a trial are outcomes that it reports."""
        del iteration, trials, info
        self._recorder.trial_broke(trial.config["trial"], again=False)
        self._recorder.trial_ended(trial.config["trial"], {"status": "failed", "error": _why(trial.error_file)})


def _why(error_file: str | None) -> str:
    """Return Tune's message about the failure of a trial's process."""
    text = Path(error_file).read_text(encoding="utf-8", errors="replace") if error_file else ""
    if "actor is dead" in text or "actor died" in text or not text.strip():
        return "The trial's own process died (killed or out of memory) or could not start."
    return text.strip().splitlines()[-1]

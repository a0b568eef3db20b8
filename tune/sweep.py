"""Run Ray Tune over Ray Train runs; the caller initialises Ray.

Only the driver writes the sweep's record and ends the MLflow runs; a trial trains and reports how it ended.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gare.common.errors import RunError
from gare.common.locks import exclusive_lock
from gare.common.nodes import Nodes
from gare.common.ray_cluster import warn_on_lost_nodes
from gare.config import Config, RuntimeConfig
from gare.launch.placement import group_zones, one_number, uses_gpu
from gare.launch.ray_controller import capacity_message, nodes_for
from tune.comparison import Comparison, check_metric, compare
from tune.here import check_local, launch_here
from tune.launch import Listed, asha, launch
from tune.opening import confirmations, missing, open_record, resolved
from tune.record import Stage, SweepRecord
from tune.recorder import OnProgress, Recorder, TuneCallback
from tune.trial import Trainer, Zones, train_with_ray


@dataclass(frozen=True)
class SweepReport:
    """The result of a sweep: its folder, its record and the comparison of its trials."""

    directory: Path
    record: SweepRecord
    comparison: Comparison

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values, with the sweep's folder and its run in MLflow."""
        return self.comparison.as_json() | {"directory": str(self.directory), "mlflow_run": self.record.run_id}


def run_sweep(
    config: Config,
    *,
    on_progress: OnProgress,
    trainer: Trainer = train_with_ray,
    extend: int = 0,
    local: bool = False,
) -> SweepReport:
    """Train every trial of ``config.sweep`` that is not done yet, with ``extend`` more samples, and compare them.

    A trial that fails is recorded and the others continue. ``local``: trials are trained here, one after the other, and
    the caller need not initialise Ray. Raises ConfigError for an invalid space, RunError if a trial
    cannot fit the cluster, if all fail, if the sweep was interrupted, or if another process is running it.
    """
    began = time.monotonic()
    check_metric(config)
    config = resolved(config)
    if local:
        check_local(config)
        nodes: Nodes = []
        zones = Zones([None])
    else:
        one_number(config.runtime, "A trial")
        nodes = nodes_for(config.runtime)
        zones = Zones(group_zones(config.runtime, nodes, "A trial"))
    folder = Path(config.runtime.output) / config.run_name()
    with exclusive_lock(folder):
        record, config = open_record(config, folder, _dataset(config), extend)
        at_once = min(zones.slots, config.sweep.max_concurrent or zones.slots)
        recorder = Recorder(folder, record, config, on_progress, _expected(config), zones)
        stages = _Stages(config, folder, record, recorder, None if local else trainer, at_once)
        stages.add_missing()
        scheduler = asha(config, record)
        if stages.work_left():
            recorder.start(at_once, began)
            try:
                with nullcontext() if local else warn_on_lost_nodes(partial(_lacking, config.runtime, nodes)):
                    stages.search(scheduler)
                    stages.confirm()
            finally:
                recorder.close()
            _raise_unfinished(record)
        comparison = compare(folder)
        recorder.conclude(comparison)
        return SweepReport(folder, record, comparison)


def _lacking(runtime: RuntimeConfig, first: Nodes, nodes: Nodes) -> str | None:
    """Report that no trial fits any more. ``first``: the nodes that decided whether ranks get GPUs."""
    device = "cuda" if uses_gpu(runtime, first) else "cpu"
    decided = runtime.model_copy(update={"device": device})
    return capacity_message(decided, nodes, runtime.fewest_workers, "Trials go on from their last checkpoints")


@dataclass(frozen=True)
class _Stages:
    """The two stages of a sweep: all trials, or a search; and the confirmation of a search's best settings.

    ``trainer``: None to train trials in this process.
    """

    config: Config
    folder: Path
    record: SweepRecord
    recorder: Recorder
    trainer: Trainer | None
    at_once: int

    def add_missing(self) -> None:
        """Add the rows that are known in advance."""
        self.recorder.add_all(missing(self.config, self.record))

    def work_left(self) -> bool:
        """Return True if any trial remains to be trained, or to be chosen."""
        searched = sum(trial.stage == "search" for trial in self.record.trials)
        more = self.config.sweep.search != "random" and searched < self.config.sweep.trials
        return more or bool(self._open("search") or self._open("confirm") or self._unconfirmed())

    def search(self, scheduler: Any) -> None:
        """Train the listed trials, or those that the searcher suggests."""
        if self.config.sweep.search == "random":
            self._launch_listed("search", scheduler)
            return
        from tune.study import StudySearch

        found = StudySearch(self.config, self.folder, self.record, self.recorder.add, self.recorder.chosen)
        self._launch(found, found.remaining, scheduler)

    def confirm(self) -> None:
        """Train the best settings of a search over all seeds, none of them stopped early."""
        if all(trial.ended for trial in self.record.trials if trial.stage == "search"):
            self.recorder.add_all(self._unconfirmed(), "confirm")
            self._launch_listed("confirm", None)

    def _unconfirmed(self) -> list[Any]:
        if not self.config.sweep.confirm:
            return []
        have = [trial.overrides for trial in self.record.trials if trial.stage == "confirm"]
        return [planned for planned in confirmations(self.config, self.record) if planned.overrides not in have]

    def _open(self, stage: Stage) -> list[int]:
        trials = enumerate(self.record.trials)
        return [index for index, trial in trials if trial.stage == stage and not trial.settled]

    def _launch_listed(self, stage: Stage, scheduler: Any) -> None:
        todo = self._open(stage)
        if self.trainer is None:
            launch_here(self.config.model_dump(mode="json"), todo, self.recorder)
            return
        self._launch(Listed(todo, self.recorder.chosen), len(todo), scheduler)

    def _launch(self, suggestions: Any, count: int, scheduler: Any) -> None:
        if not count or self.trainer is None:
            return
        launch(
            self.config.model_dump(mode="json"),
            self.trainer,
            suggestions,
            count,
            at_once=self.at_once,
            scheduler=scheduler,
            callback=TuneCallback(self.recorder),
            folder=self.folder,
        )


def _expected(config: Config) -> int:
    """Return the number of trials with a searcher; otherwise 0, because the record's rows determine it."""
    if config.sweep.search == "random":
        return 0
    return config.sweep.trials + config.sweep.confirm * (len(config.sweep.seeds or [0]) - 1)


def _dataset(config: Config) -> dict[str, str]:
    if config.runtime.shards is None:
        return {}
    from gare.launch.tracked import dataset_digests
    from gare.runs.inputs import open_shards

    return dataset_digests(open_shards(config, frames=False))


def _raise_unfinished(record: SweepRecord) -> None:
    open_trials = [trial for trial in record.trials if not trial.ended]
    if open_trials:
        raise RunError(
            f"The sweep {record.name} was interrupted with {len(open_trials)} of {len(record.trials)} trials to go; "
            f"the same command, or gare sweep --resume {record.name}, continues it."
        )
    if all(trial.status == "failed" for trial in record.trials):
        raise RunError(f"All {len(record.trials)} trials failed; the first: {record.trials[0].error}")

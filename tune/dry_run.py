"""Plan a sweep (``gare sweep --dry-run``): its trials, how many run at a time and why, and the time needed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gare.common.nodes import Nodes
from gare.config import Config
from gare.config.tree import with_overrides
from gare.data.samples import test_cautions
from gare.launch.local import TrainingCost, measure_cost
from gare.launch.placement import group_zones, offered, rank_nodes, rank_resources, uses_gpu
from gare.runs.inputs import open_data
from tune.opening import missing, open_record, resolved
from tune.space import Overrides, Planned, repeated

START_SECONDS = 6.0
"""A trial's time in addition to its own work: processes start and import, checkpoints and records are written.

A round figure for two CPU cores, which a dry run does not measure; ``benchmarks/sweeping.py`` does.
"""
COUNTED = ("train.epochs", "train.global_batch", "data.captions", "data.repeat_videos", "data.train_split")
"""The keys that a trial may change and that determine the number of steps."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that would run. ``seconds``: estimated, as if it ran to its end."""

    name: str
    case: str | None
    stage: str
    overrides: Overrides
    steps: int
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Slots:
    """The number of trials at a time. ``resources``: what one of them requests, by Ray's names."""

    at_once: int
    resources: dict[str, float]
    why: str


@dataclass(frozen=True)
class SweepPlan:
    """The plan of a sweep. ``suggested``: trials whose settings the searcher chooses during the sweep.

    ``done``: trials of an earlier start of this sweep, which are not trained again. ``seconds``: estimated wall time.
    """

    name: str
    folder: str
    trials: list[PlannedTrial]
    suggested: int
    done: int
    slots: Slots
    cost: TrainingCost
    start_s: float
    seconds: float
    remarks: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)


def make_plan(
    config: Config, nodes: Nodes, *, extend: int = 0, measured: Callable[[Config], TrainingCost] = measure_cost
) -> SweepPlan:
    """Plan the sweep on the nodes, or the rest of it; nothing is written.

    Raises the sweep's own errors: ConfigError for invalid settings, RunError if not even one trial fits.
    """
    config = resolved(config)
    folder = Path(config.runtime.output) / config.run_name()
    record, config = open_record(config, folder, {}, extend)
    slots = make_slots(config, nodes)
    todo = [(t.name, Planned(t.case, t.overrides), t.stage) for t in record.trials if not t.settled]
    todo += [
        (f"trial-{number:03d}", planned, "search")
        for number, planned in enumerate(missing(config, record), len(record.trials))
    ]
    cost = measured(config)
    costs = _Costs(config, cost)
    trials = [costs.of(name, planned, stage) for name, planned, stage in todo]
    searched = sum(t.stage == "search" for t in record.trials)
    unknown = [costs.of("", Planned(None, {}), stage).seconds for stage in _suggested(config, searched)]
    seconds = makespan([trial.seconds for trial in trials] + unknown, slots.at_once)
    return SweepPlan(
        name=config.run_name(),
        folder=str(folder),
        trials=trials,
        suggested=len(unknown),
        done=sum(t.settled for t in record.trials),
        slots=slots,
        cost=cost,
        start_s=START_SECONDS,
        seconds=seconds,
        remarks=_remarks(config, cost, slots),
    )


def make_slots(config: Config, nodes: Nodes) -> Slots:
    """Count the trials that fit at the same time, and explain the arithmetic; RunError if not even one does."""
    runtime, sweep = config.runtime, config.sweep
    zones = group_zones(runtime, nodes, "A trial")
    fit = len(zones)
    with_gpu = uses_gpu(runtime, nodes)
    alone = with_overrides(config, {"runtime.workers": 1, "runtime.device": "cuda" if with_gpu else "cpu"})
    room = len(group_zones(alone.runtime, nodes, "A worker"))
    close = f", all in one {runtime.close_by}:" if zones[0] is not None else ":"
    workers = runtime.fewest_workers
    each = f"{runtime.cpus_per_worker:g} CPU" + (" and a GPU" if with_gpu else "")
    has = offered(rank_nodes(runtime, nodes), use_gpu=with_gpu)
    why = f"{has}: room for {room} workers of {each}; a trial has {workers}{close} {fit} at a time"
    if sweep.max_concurrent is not None and sweep.max_concurrent < fit:
        why += f", and {sweep.max_concurrent} by sweep.max_concurrent"
    each_asks = rank_resources(runtime, use_gpu=with_gpu)
    resources = {name: workers * amount for name, amount in each_asks.items()}
    return Slots(min(fit, sweep.max_concurrent or fit), resources, why)


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """Return the wall time of trials that start in order, each as soon as one of ``at_once`` slots is free."""
    free = [0.0] * at_once
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


class _Costs:
    """Trial times: steps at the measured time per pair, and an evaluation for every epoch."""

    def __init__(self, config: Config, cost: TrainingCost) -> None:
        self._config, self._cost = config, cost
        self._per_epoch: dict[str, int] = {}

    def of(self, name: str, planned: Planned, stage: str) -> PlannedTrial:
        """Count a trial's steps from the shards, and estimate its time."""
        config = with_overrides(self._config, planned.overrides)
        own, workers = config.train, config.runtime.fewest_workers
        steps = self._steps(config, planned.overrides)
        step = self._cost.step_s * own.global_batch / self._config.train.global_batch / workers
        dev = self._cost.dev_s / workers
        seconds = START_SECONDS + self._cost.set_up_s + steps * step + own.epochs * dev
        return PlannedTrial(name, planned.case, stage, planned.overrides, steps, own.epochs, seconds)

    def _steps(self, config: Config, overrides: Overrides) -> int:
        counted = str({key: overrides.get(key) for key in COUNTED if key != "train.epochs"})
        if counted not in self._per_epoch:
            self._per_epoch[counted] = open_data(config, frames=False).steps // config.train.epochs
        return self._per_epoch[counted] * config.train.epochs


def _suggested(config: Config, searched: int) -> list[str]:
    """List the stages of the trials that a searcher has yet to choose."""
    sweep = config.sweep
    if sweep.search == "random":
        return []
    confirmed = sweep.confirm * (len(sweep.seeds or [0]) - 1)
    return ["search"] * max(0, sweep.trials - searched) + ["confirm"] * confirmed


def _remarks(config: Config, cost: TrainingCost, slots: Slots) -> list[str]:
    said = test_cautions(config)
    if again := repeated(config):
        said.append(f"{again} drawn trials repeat the settings of others and are left out: sweep.space is small.")
    if config.sweep.scheduler == "asha":
        said.append("asha stops weak trials early, so it takes less than that.")
    if config.runtime.fewest_workers > 1:
        said.append(
            "The workers of a trial were taken to share a step evenly; what they tell each other was not measured."
        )
    if slots.at_once > 1:
        said.append("One process was measured alone; trials side by side slow each other down where they share memory.")
    if cost.device == "cpu" and slots.resources.get("GPU"):
        said.append("The step was measured on a CPU here, and trials get GPUs: they are much faster.")
    return said

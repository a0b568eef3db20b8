"""Group trials by setting: settings are ranked, and the seeds of a setting are repeats of it.

A trial's curve is its metric over the epochs, from its run's history.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gare.common.files import canonical_json
from gare.config import Config
from gare.config.tree import flatten
from gare.runs.layout import HISTORY_FILE
from gare.runs.state import read_history
from tune.comparison.labels import cell, short_keys
from tune.comparison.statistics import Estimate, estimate
from tune.record import SEED, SweepRecord, Trial


@dataclass(frozen=True)
class Setting:
    """Trials that differ in ``train.seed`` alone.

    ``label``: the case if it is a single setting, the value if a single key is swept, else its first trial's name.
    ``values``: every key that some trial sets, with the experiment's own value where this setting does not set it.
    ``scores``: the metric by seed, of trials done or stopped early; the mean if a seed was trained twice.
    """

    label: str
    case: str | None
    values: dict[str, Any]
    trials: list[Trial]
    scores: dict[int, float]

    @cached_property
    def estimate(self) -> Estimate | None:
        """Return the metric over the seeds; None without any."""
        return estimate(list(self.scores.values())) if self.scores else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the interval of the mean; None if seeds were stopped early: theirs would be of another epoch."""
        return self.estimate.interval if self.estimate and not self.cut else None

    @property
    def cut(self) -> bool:
        """Return True if a trial of it was stopped early."""
        return any(trial.status == "stopped" for trial in self.trials)

    @property
    def confirmed(self) -> bool:
        """Return True if it was trained again, over other seeds, because it was among the best of a search."""
        return any(trial.stage == "confirm" and trial.status == "done" for trial in self.trials)

    @property
    def confirmed_mean(self) -> float | None:
        """Return the mean without the seeds of the search, which chose it; None if it was not confirmed."""
        searched = {trial.overrides.get(SEED) for trial in self.trials if trial.stage == "search"}
        others = [score for seed, score in self.scores.items() if seed not in searched]
        return estimate(others).mean if self.confirmed and others else None

    @property
    def seconds(self) -> float:
        """Return the wall time of its trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def train_s(self) -> float:
        """Return the training time of its trials."""
        return sum(trial.train_s for trial in self.trials)

    @property
    def epochs(self) -> str:
        """Return the epochs that its trials reached: one number, or the fewest and the most."""
        reached = sorted({trial.epochs for trial in self.trials if trial.epochs})
        return "-" if not reached else "-".join(str(each) for each in (reached[0], reached[-1])[: len(reached)])

    @property
    def status(self) -> str:
        """Return the status of its trials: one word, or the number of each."""
        counts = Counter(trial.status for trial in self.trials)
        if len(self.trials) == 1:
            return self.trials[0].status
        return ", ".join(f"{number} {status}" for status, number in counts.items())


def group(record: SweepRecord, config: Config) -> list[Setting]:
    """Group the trials by setting, in the order of their first trials."""
    keys = swept_keys(record, config)
    base = flatten(config)
    rows: dict[str, list[Trial]] = defaultdict(list)
    for trial in record.trials:
        varied = {key: value for key, value in trial.overrides.items() if key != SEED}
        rows[canonical_json([trial.case, varied])].append(trial)
    cases = Counter(trials[0].case for trials in rows.values())
    return [
        Setting(
            label=_label(trials[0], cases, keys),
            case=trials[0].case,
            values={key: trials[0].overrides.get(key, base.get(key)) for key in keys},
            trials=trials,
            scores=_scores(trials, config),
        )
        for trials in rows.values()
    ]


def rank(settings: Sequence[Setting], sign: float) -> tuple[list[Setting], list[Setting]]:
    """Split settings into those with the metric, best first, and the others; ``sign``: 1 if more is better, else -1.

    Confirmed settings come before those of a search, whose single seed may have been lucky; ties keep their order.
    """
    able = [setting for setting in settings if setting.estimate]
    others = [setting for setting in settings if not setting.estimate]
    return sorted(able, key=lambda s: (not s.confirmed, -sign * s.estimate.mean if s.estimate else 0.0)), others


def swept_keys(record: SweepRecord, config: Config) -> list[str]:
    """List every key that the space or some trial sets, without the seed."""
    return sorted(({key for trial in record.trials for key in trial.overrides} | set(config.sweep.space)) - {SEED})


def varying(settings: Sequence[Setting], keys: Sequence[str]) -> list[str]:
    """Keep the keys that have more than one value among the settings."""
    return [key for key in keys if len({canonical_json(setting.values[key]) for setting in settings}) > 1]


def described(setting: Setting, keys: Sequence[str]) -> str:
    """Describe a setting's values in a line."""
    shorts = short_keys(list(keys))
    return ", ".join(f"{short} {cell(setting.values[key])}" for key, short in zip(keys, shorts, strict=True))


def _label(first: Trial, cases: Mapping[str | None, int], keys: Sequence[str]) -> str:
    if first.case is not None:
        return first.case if cases[first.case] == 1 else f"{first.case} / {first.name}"
    if len(keys) == 1 and keys[0] in first.overrides:
        return f"{short_keys(list(keys))[0]} {cell(first.overrides[keys[0]])}"
    return first.name


def _scores(trials: Sequence[Trial], config: Config) -> dict[int, float]:
    found: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.settled and config.sweep.metric in trial.metrics:
            found[trial.overrides.get(SEED, config.train.seed)].append(trial.metrics[config.sweep.metric])
    return {seed: estimate(values).mean for seed, values in sorted(found.items())}


LOSS = "train/loss"
MOST_POINTS = 60

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """A trial's progress. ``metric``: (epoch, value); ``loss``: (step, value), at most 60 means of adjacent steps."""

    trial: str
    status: str
    metric: Points
    loss: Points


def read_curves(trials: Sequence[Trial], metric: str) -> list[Curve]:
    """Read the histories of the trials that have one."""
    found = []
    for trial in trials:
        rows = read_history(Path(trial.directory) / HISTORY_FILE)
        curve = Curve(trial.name, trial.status, _points(rows, "epoch", metric), _thinned(_points(rows, "step", LOSS)))
        if curve.metric or curve.loss:
            found.append(curve)
    return found


def _points(rows: Sequence[dict[str, Any]], along: str, name: str) -> Points:
    pairs = [(row[along], row[name]) for row in rows if along in row and name in row]
    return [(float(x), float(y)) for x, y in pairs if _finite(x) and _finite(y)]


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _thinned(points: Points) -> Points:
    if len(points) <= MOST_POINTS:
        return points
    parts = np.array_split(np.array(points), MOST_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]

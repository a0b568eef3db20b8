"""How trials learned: the dev metric by epoch and the loss by step, from the histories in their run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gare.runs.layout import HISTORY_FILE
from gare.runs.state import read_history
from tune.record import Trial

LOSS = "train/loss"
MOST_POINTS = 60

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """A trial's way. ``metric``: (epoch, value); ``loss``: (step, value), at most 60 means of steps that follow."""

    trial: str
    status: str
    metric: Points
    loss: Points

    def as_json(self) -> dict[str, Any]:
        """Give it as a plain mapping."""
        return asdict(self)


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

"""Format keys, metrics and values, and place values on an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

DEV = "dev/"
DIRECTIONS = {"t2v": "text-to-video", "v2t": "video-to-text"}
MEASURES = {"MdR": "median rank", "MnR": "mean rank"}


def plain_metric(metric: str) -> str:
    """Describe a metric: ``dev/t2v/R@1`` becomes ``text-to-video R@1 on dev (%)``."""
    split, _, rest = metric.partition("/")
    direction, _, measure = rest.partition("/")
    unit = " (%)" if measure.startswith("R@") else ""
    return f"{DIRECTIONS.get(direction, direction)} {MEASURES.get(measure, measure)} on {split}{unit}"


def short_keys(keys: list[str]) -> list[str]:
    """Shorten each key to its shortest unique ending of at least two parts."""
    return [_shortest(key, [other for other in keys if other != key]) for key in keys]


def cell(value: Any) -> str:
    """Format a setting's value for a table."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def figure(value: float | None) -> str:
    """Format a metric; ``-`` if there is none."""
    return "-" if value is None else f"{value:.2f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """Format an interval; empty if there is none."""
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def duration(seconds: float) -> str:
    """Format a time in a suitable unit."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _shortest(key: str, others: list[str]) -> str:
    parts = key.split(".")
    for count in range(2, len(parts)):
        ending = ".".join(parts[-count:])
        if not any(other == ending or other.endswith("." + ending) for other in others):
            return ending
    return key


WIDE = 50.0
"""The ratio of values above which a numeric axis is logarithmic."""
FEW = 6
ZERO = 0.12
"""The position where positive values begin on a logarithmic axis with a zero, which is at 0."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """An axis from 0 to 1. ``ticks``: (position, label); ``labels``: of an axis of categories, in order."""

    kind: Literal["linear", "log", "category"]
    low: float
    high: float
    zero: bool
    labels: list[str]
    ticks: list[tuple[float, str]]

    def at(self, value: Any) -> float:
        """Return the position of a value."""
        if self.kind == "category":
            return (self.labels.index(cell(value)) + 0.5) / len(self.labels)
        return _at(self.kind, self.low, self.high, value, zero=self.zero)


def axis(values: Sequence[Any], *, form: str | None = None) -> Axis:
    """Choose the axis for at least one value: numbers are placed by size, others in equal strips.

    ``form``: the key's form in the space; ``loguniform`` is logarithmic and ``uniform`` never.
    """
    if not numeric(values):
        labels = [cell(value) for value in sorted(set(values), key=_order)] if _plain(values) else []
        labels = labels or sorted({cell(value) for value in values})
        labels = list(dict.fromkeys(labels))
        ticks = [((place + 0.5) / len(labels), label) for place, label in enumerate(labels)]
        return Axis("category", 0.0, 1.0, False, labels, ticks)
    distinct = sorted({float(value) for value in values})
    above = [value for value in distinct if value > 0]
    wide = bool(above) and above[-1] / above[0] > WIDE and form != "uniform"
    if distinct[0] >= 0 and len(above) > 1 and (wide or form == "loguniform"):
        return _logarithmic(distinct, above)
    low, high = _margins(distinct[0], distinct[-1])
    if len(distinct) <= FEW:
        places = [((value - low) / (high - low), cell(value)) for value in distinct]
        if all(b[0] - a[0] > 1 / 12 for a, b in pairwise(places)):
            return Axis("linear", low, high, False, [], places)
    whole = all(isinstance(value, int) for value in values)
    return Axis("linear", low, high, False, [], [((t - low) / (high - low), f"{t:g}") for t in _nice(low, high, whole)])


def span_axis(low: float, high: float) -> Axis:
    """Make a linear axis from ``low`` to ``high`` with round ticks and a margin at the ends."""
    low, high = _margins(low, high)
    return Axis("linear", low, high, False, [], [((t - low) / (high - low), f"{t:g}") for t in _nice(low, high)])


def _logarithmic(distinct: list[float], above: list[float]) -> Axis:
    zero = distinct[0] == 0
    low, high = above[0] / 1.15, above[-1] * 1.15
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    rounds = [10.0**power for power in powers]
    if len(distinct) <= FEW:
        rounds = above
    elif len(rounds) < 2:
        rounds = [m * 10.0**p for p in range(powers.start - 1, powers.stop + 1) for m in (1, 2, 5)]
        rounds = [value for value in rounds if low <= value <= high]
    every = max(1, math.ceil(len(rounds) / FEW))
    ticks = [(_at("log", low, high, value, zero=zero), f"{value:g}") for value in rounds[::every]]
    return Axis("log", low, high, zero, [], ([(ZERO / 2, "0")] if zero else []) + ticks)


def _at(kind: str, low: float, high: float, value: float, *, zero: bool) -> float:
    if kind == "linear":
        return (value - low) / (high - low)
    start = ZERO if zero else 0.0
    if value <= 0:
        return ZERO / 2
    return start + (1 - start) * math.log(value / low) / math.log(high / low)


def _margins(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _nice(low: float, high: float, whole: bool = False) -> list[float]:  # noqa: FBT001, FBT002 - used here alone
    """Return about five round values between the two ends."""
    rough = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * each for each in STEPS if scale * each >= rough * (1 - 1e-9))
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 12) + 0.0 for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _plain(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, str | int | float | bool) for value in values)


def _order(value: Any) -> tuple[int, float, str]:
    """Sort null first, then false and true, numbers by size, texts alphabetically."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, bool):
        return 1, float(value), ""
    return (2, float(value), "") if isinstance(value, int | float) else (3, 0.0, value)


def numeric(values: Sequence[Any]) -> bool:
    """Return True if all are numbers; true and false are not."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

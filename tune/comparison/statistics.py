"""What a few seeds can tell: means with Student's t intervals, differences, and the correction for looking often."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
SAME = 1e-9
"""Values this near to each other, against their size, differ by rounding alone."""


@dataclass(frozen=True)
class Estimate:
    """The mean of ``n`` values.

    ``deviation``: their sample standard deviation, and ``interval``: the 95 % interval of the mean by Student's t;
    None for a single value, and the interval also for values that do not differ, which say nothing of their spread.
    """

    mean: float
    n: int
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """How much one setting is above another.

    ``n``: the seeds both share where ``paired``, else the fewer of the two. ``p``: two-sided, None where the seeds
    leave no spread to judge by.
    """

    mean: float
    n: int
    paired: bool
    interval: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True)
class Noise:
    """The standard deviation over the seeds of a setting, pooled over settings, and its degrees of freedom."""

    deviation: float
    freedom: int


def estimate(values: Sequence[float]) -> Estimate:
    """Average at least one value."""
    mean, n = math.fsum(values) / len(values), len(values)
    if n < 2:
        return Estimate(mean, n, None, None)
    deviation = _deviation(values)
    return Estimate(mean, n, deviation, _around(mean, deviation / math.sqrt(n), n - 1) if deviation else None)


def difference(left: Mapping[int, float], right: Mapping[int, float]) -> Difference | None:
    """Compare the values of two settings by seed, ``left`` minus ``right``; None with too few seeds to compare.

    Seeds they share are compared pair by pair (paired t). Where they share fewer than two, all seeds of both count
    (Welch's t), at least two of each.
    """
    shared = sorted(left.keys() & right.keys())
    if len(shared) >= 2:
        found = estimate([left[seed] - right[seed] for seed in shared])
        error = (found.deviation or 0.0) / math.sqrt(found.n)
        return Difference(found.mean, found.n, True, found.interval, _p(found.mean, error, found.n - 1))
    if min(len(left), len(right)) < 2:
        return None
    a, b = estimate(list(left.values())), estimate(list(right.values()))
    one, other = (a.deviation or 0.0) ** 2 / a.n, (b.deviation or 0.0) ** 2 / b.n
    mean, error, fewer = a.mean - b.mean, math.sqrt(one + other), min(a.n, b.n)
    if not error:
        return Difference(mean, fewer, False, None, None)
    # Welch and Satterthwaite: the degrees of freedom of a sum of two variances that may differ.
    freedom = (one + other) ** 2 / (one**2 / (a.n - 1) + other**2 / (b.n - 1))
    return Difference(mean, fewer, False, _around(mean, error, freedom), _p(mean, error, freedom))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p values for how many there are (Holm 1979): below alpha, some true null is rejected in alpha of cases."""
    adjusted, most = [1.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        most = max(most, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = most
    return adjusted


def pooled(groups: Sequence[Sequence[float]]) -> Noise | None:
    """Pool the spread within groups of at least two values; None where there is no such group."""
    repeated = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if not freedom:
        return None
    squares = math.fsum((len(group) - 1) * _deviation(group) ** 2 for group in repeated)
    return Noise(math.sqrt(squares / freedom), freedom)


def _deviation(values: Sequence[float]) -> float:
    found = float(np.std(values, ddof=1))
    return found if found > SAME * max(1.0, *map(abs, values)) else 0.0


def _around(mean: float, error: float, freedom: float) -> tuple[float, float]:
    half = error * float(_student().ppf((1 + LEVEL) / 2, freedom))
    return mean - half, mean + half


def _p(mean: float, error: float, freedom: float) -> float | None:
    return float(2 * _student().sf(abs(mean) / error, freedom)) if error else None


def _student() -> Any:
    from scipy.stats import t  # takes a second to import

    return t

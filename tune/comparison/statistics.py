"""Draw conclusions from a few seeds: means with Student's t intervals, differences, corrections for their number.

The studentised range is that of G normal values over a standard deviation with some degrees of freedom. Both integrals
of its distribution are of analytic functions that vanish at both ends, for which the sum over an even grid is exact to
rounding; ``scipy.stats`` gets the same numbers by adaptive quadrature, some hundred times more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Interval = tuple[float, float]
SAME = 1e-9
"""Values this close to each other, relative to their size, differ by rounding alone."""


@dataclass(frozen=True)
class Estimate:
    """The mean of ``n`` values.

    ``deviation``: their sample standard deviation, and ``interval``: the 95 % interval of the mean by Student's t; None
    for a single value. The interval is also None for values that do not differ, which give no information on their
    spread.
    """

    mean: float
    n: int
    deviation: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """The difference between two settings.

    ``n``: the seeds that both share if ``paired``, else the fewer of the two. ``error``: the standard error of the
    mean, with ``freedom`` degrees of freedom. ``interval`` (95 %) and ``p`` (two-sided) are those of this comparison
    alone. All four are None if the seeds have no spread.
    """

    mean: float
    n: int
    paired: bool
    error: float | None = None
    freedom: float | None = None
    interval: Interval | None = None
    p: float | None = None


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

    Shared seeds are compared pair by pair (paired t). If fewer than two are shared, all seeds of both count (Welch's
    t), at least two of each.
    """
    shared = sorted(left.keys() & right.keys())
    if len(shared) >= 2:
        found = estimate([left[seed] - right[seed] for seed in shared])
        return _difference(found.mean, found.n, True, (found.deviation or 0.0) / math.sqrt(found.n), found.n - 1)
    if min(len(left), len(right)) < 2:
        return None
    a, b = estimate(list(left.values())), estimate(list(right.values()))
    one, other = (a.deviation or 0.0) ** 2 / a.n, (b.deviation or 0.0) ** 2 / b.n
    # Welch and Satterthwaite: the degrees of freedom of a sum of two variances that may differ.
    freedom = (one + other) ** 2 / (one**2 / (a.n - 1) + other**2 / (b.n - 1)) if one + other else 0.0
    return _difference(a.mean - b.mean, min(a.n, b.n), False, math.sqrt(one + other), freedom)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979): below alpha, some true null is rejected in alpha of cases."""
    adjusted, most = [1.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        most = max(most, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = most
    return adjusted


def pooled(groups: Sequence[Sequence[float]]) -> Noise | None:
    """Pool the spread within groups of at least two values; None if there is no such group."""
    repeated = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if not freedom:
        return None
    squares = math.fsum((len(group) - 1) * _deviation(group) ** 2 for group in repeated)
    return Noise(math.sqrt(squares / freedom), freedom)


def common_noise(groups: Sequence[Mapping[int, float]], least: int) -> Noise | None:
    """Estimate the standard deviation of a score after removing the effects of its group and its seed.

    If all groups share at least ``least`` seeds, these count, without a seed's common effect on all groups (the
    residuals of groups x seeds); else all seeds count, within their groups. None without two groups, or without spread.
    """
    shared = sorted(set.intersection(*(set(group) for group in groups))) if len(groups) > 1 else []
    if len(shared) < least:
        found = pooled([list(group.values()) for group in groups]) if len(groups) > 1 else None
        return found if found and found.deviation else None
    table = np.array([[group[seed] for seed in shared] for group in groups])
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    freedom = (len(groups) - 1) * (len(shared) - 1)
    deviation = math.sqrt(float((left**2).sum()) / freedom)
    return Noise(deviation, freedom) if deviation > SAME * max(1.0, float(np.abs(table).max())) else None


def largest(found: Difference, noise: Noise, sizes: tuple[int, int], groups: int) -> tuple[Interval, float]:
    """Judge a difference as if it were the largest among ``groups`` groups: its 95 % interval and p value.

    It uses the studentised range (Tukey), which accounts for choosing the best group, or any other, beforehand: among
    groups that do not differ, one in twenty families of such comparisons has an interval without 0. Tukey's error comes
    from ``noise``, that of all groups, which is too small if one group varies more than the others. So the same is done
    with the error of the two alone, and the wider interval and the larger p count. ``sizes``: the values in each of the
    two. ``found`` must have an error.
    """
    shared = noise.deviation * math.sqrt(1 / sizes[0] + 1 / sizes[1])
    errors = [(shared, float(noise.freedom)), (found.error or math.inf, found.freedom or 1.0)]
    half = max(error * quantile(LEVEL, groups, freedom) for error, freedom in errors) / math.sqrt(2)
    ps = [exceeds(math.sqrt(2) * abs(found.mean) / error, groups, freedom) for error, freedom in errors]
    return (found.mean - half, found.mean + half), max(ps)


def _difference(mean: float, n: int, paired: bool, error: float, freedom: float) -> Difference:  # noqa: FBT001
    if not error:
        return Difference(mean, n, paired)
    p = float(2 * _student().sf(abs(mean) / error, freedom))
    return Difference(mean, n, paired, error, freedom, _around(mean, error, freedom), p)


def _deviation(values: Sequence[float]) -> float:
    found = float(np.std(values, ddof=1))
    return found if found > SAME * max(1.0, *map(abs, values)) else 0.0


def _around(mean: float, error: float, freedom: float) -> Interval:
    half = error * float(_student().ppf((1 + LEVEL) / 2, freedom))
    return mean - half, mean + half


def _student() -> Any:
    from scipy.stats import t  # takes a second to import

    return t


WIDEST = 16.0
"""Ranges of fewer than 10^8 standard normal values exceed it with a probability below 1e-12."""

KNOTS = 4097
NEGLIGIBLE = 40.0
"""exp of its negative is negligible."""


def exceeds(statistic: float, groups: int, freedom: float) -> float:
    """Return the probability that the range of ``groups`` values exceeds ``statistic`` (the survival function)."""
    deviations, weights = _deviations(freedom)
    beyond = _normal_range(groups)(np.minimum(statistic * deviations, WIDEST))
    return min(1.0, max(0.0, float(weights @ beyond)))


@cache
def quantile(level: float, groups: int, freedom: float) -> float:
    """Return the statistic that ranges exceed with a probability of 1 - ``level``."""
    from scipy.optimize import brentq

    high = 4.0
    while exceeds(high, groups, freedom) > 1 - level:
        high *= 2
    return float(brentq(lambda q: exceeds(q, groups, freedom) - (1 - level), 0.0, high, xtol=1e-12, rtol=1e-14))


@lru_cache(64)
def _deviations(freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values of a standard deviation (true value 1), evenly spaced in their logarithm x, with probabilities."""
    # The density of x is that of exp(freedom * shape) up to a factor, and shape is below -x^2 / (1 - x) for x < 0 and
    # below -x^2 for x > 0: this bounds the range of the sum.
    size = NEGLIGIBLE / freedom
    step = min(0.02, 0.4 / math.sqrt(2 * freedom))
    x = np.arange(-(size + math.sqrt(size)), math.sqrt(size) + step, step)
    weights = np.exp(freedom * (x - np.expm1(2 * x) / 2))
    return np.exp(x), weights / weights.sum()


@cache
def _normal_range(groups: int) -> Any:
    """Return the probability that the range of ``groups`` standard normal values exceeds w, from 0 to ``WIDEST``."""
    from scipy.interpolate import CubicSpline
    from scipy.special import ndtr

    w = np.linspace(0, WIDEST, KNOTS)
    largest, step = np.linspace(-9, 9, 361, retstep=True)
    density = step * groups * np.exp(-(largest**2) / 2) / math.sqrt(2 * math.pi)
    within = (ndtr(largest) - ndtr(largest - w[:, None])) ** (groups - 1)  # the others, between largest - w and largest
    return CubicSpline(w, 1 - within @ density)

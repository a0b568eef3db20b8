"""The studentised range: the range of G normal values over a standard deviation with some degrees of freedom.

Both integrals of its distribution are of analytic functions that vanish at both ends, for which the sum over an even
grid is exact to rounding. ``scipy.stats`` has the same numbers by adaptive quadrature, some hundred times more slowly.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDEST = 16.0
"""Ranges of fewer than 10^8 standard normal values go beyond it with a probability below 1e-12."""

KNOTS = 4097
NEGLIGIBLE = 40.0
"""exp of its negative does not count."""


def exceeds(statistic: float, groups: int, freedom: float) -> float:
    """The probability that the range of ``groups`` values is more than ``statistic`` (the survival function)."""
    deviations, weights = _deviations(freedom)
    beyond = _normal_range(groups)(np.minimum(statistic * deviations, WIDEST))
    return min(1.0, max(0.0, float(weights @ beyond)))


@cache
def quantile(level: float, groups: int, freedom: float) -> float:
    """The statistic that ranges exceed with a probability of 1 - ``level``."""
    from scipy.optimize import brentq

    high = 4.0
    while exceeds(high, groups, freedom) > 1 - level:
        high *= 2
    return float(brentq(lambda q: exceeds(q, groups, freedom) - (1 - level), 0.0, high, xtol=1e-12, rtol=1e-14))


@lru_cache(64)
def _deviations(freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a standard deviation whose true value is 1, even in their logarithm x, and their probabilities."""
    # The density of x is that of exp(freedom * shape) up to a factor, and shape is below -x^2 / (1 - x) for x < 0 and
    # below -x^2 for x > 0: so far it has to be summed.
    size = NEGLIGIBLE / freedom
    step = min(0.02, 0.4 / math.sqrt(2 * freedom))
    x = np.arange(-(size + math.sqrt(size)), math.sqrt(size) + step, step)
    weights = np.exp(freedom * (x - np.expm1(2 * x) / 2))
    return np.exp(x), weights / weights.sum()


@cache
def _normal_range(groups: int) -> Any:
    """The probability that the range of ``groups`` standard normal values exceeds w, for w from 0 to ``WIDEST``."""
    from scipy.interpolate import CubicSpline
    from scipy.special import ndtr

    w = np.linspace(0, WIDEST, KNOTS)
    largest, step = np.linspace(-9, 9, 361, retstep=True)
    density = step * groups * np.exp(-(largest**2) / 2) / math.sqrt(2 * math.pi)
    within = (ndtr(largest) - ndtr(largest - w[:, None])) ** (groups - 1)  # the others, between largest - w and largest
    return CubicSpline(w, 1 - within @ density)

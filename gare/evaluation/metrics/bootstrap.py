"""Intervals of a metric and of the difference of two: percentile bootstrap over whole videos.

Queries of one video are not independent: its captions tend to do well or badly together. So a resample draws videos,
with replacement, each with all its queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.evaluation.metrics.ranking import RECALLS, Ranking

RESAMPLES = 10_000
CHUNK_CELLS = 2_000_000
"""Number of resamples x videos (or queries) in memory at once."""


@dataclass(frozen=True)
class Difference:
    """A metric of two runs on the same queries.

    ``a`` and ``b``: its values; ``difference``: b - a; ``low`` and ``high``: the interval of the difference; ``p``: the
    two-sided bootstrap p of no difference, at least 2 / (resamples + 1).
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def intervals(
    ranking: Ranking, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the interval of every metric at ``level``, with the keys of ``Ranking.metrics()``."""
    found = resampled([ranking], resamples, seed)[0]
    return {name: _interval(values, level) for name, values in found.items()}


def compare(
    a: Ranking, b: Ranking, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Return the differences b - a of every metric, in the order of ``Ranking.metrics()``, on the same resamples.

    Raises InputError unless both rank the same gallery for the same videos' queries.
    """
    if (a.name, a.gallery) != (b.name, b.gallery) or not np.array_equal(a.video, b.video):
        raise InputError(f"The rankings {a.name} and {b.name} are not of the same queries and gallery.")
    found_a, found_b = resampled([a, b], resamples, seed)
    values_a, values_b = a.metrics(), b.metrics()
    differences = []
    for name in values_a:
        change = found_b[name] - found_a[name]
        low, high = _interval(change, level)
        ahead = min(int((change <= 0).sum()), int((change >= 0).sum()))
        p = min(1.0, 2 * (ahead + 1) / (resamples + 1))
        differences.append(
            Difference(name, values_a[name], values_b[name], values_b[name] - values_a[name], low, high, p)
        )
    return differences


def resampled(rankings: list[Ranking], resamples: int, seed: int) -> list[dict[str, NDArray[np.float64]]]:
    """Return each ranking's metrics [resamples] over the same draws of its videos; equal seeds draw equally."""
    if resamples < 1:
        raise InputError(f"{resamples} resamples are too few for an interval; take 1000 or more.")
    values = [{name: np.empty(resamples) for name in ranking.metrics()} for ranking in rankings]
    tables = [_Table(ranking) for ranking in rankings]
    at = 0
    for weights in _draws(tables[0].videos, resamples, seed):
        part = slice(at, at + len(weights))
        at = part.stop
        for table, found in zip(tables, values, strict=True):
            for array, column in zip(found.values(), table.measure(weights), strict=True):
                array[part] = column
    return values


def _draws(videos: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each video is drawn [b, videos], in chunks of resamples."""
    random = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // videos)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        draws = random.integers(0, videos, (count, videos))
        draws += np.arange(count)[:, None] * videos
        yield np.bincount(draws.ravel(), minlength=count * videos).reshape(count, videos).astype(np.float64)


class _Table:
    """A ranking as sums per video, which give the metrics for any weights of the videos."""

    def __init__(self, ranking: Ranking) -> None:
        number = np.unique(ranking.video, return_inverse=True)[1]
        self.videos = int(number.max()) + 1
        order = np.argsort(ranking.ranks, kind="stable")
        self.ranks, self.owner = np.asarray(ranking.ranks, np.float64)[order], number[order]
        hits = [self.ranks <= k for k in RECALLS]
        columns = [np.ones(len(order)), self.ranks, *hits]
        self.sums = np.stack([np.bincount(self.owner, c, self.videos) for c in columns], axis=1)
        self.window = self._first_window()

    def measure(self, weights: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return recalls, median and mean rank [b] of the resamples with weights [b, videos]."""
        queries, total, *hits = (weights @ self.sums).T
        return [*(100.0 * h / queries for h in hits), self._medians(weights, queries), total / queries]

    def _medians(self, weights: NDArray[np.float64], queries: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the median rank [b]: the middle one or two of each resample's queries, as in numpy."""
        medians = np.empty(len(weights))
        at = 0
        while at < len(weights):
            start, stop = self.window
            rows = slice(at, at + max(1, CHUNK_CELLS // (stop - start)))
            middles = [(queries[rows] - 1) // 2, queries[rows] // 2]
            before = weights[rows] @ np.bincount(self.owner[:start], minlength=self.videos)
            through = weights[rows][:, self.owner[start:stop]].cumsum(axis=1) + before[:, None]
            if (before > middles[0]).any() or (through[:, -1] <= middles[1]).any():
                self._widen()
                continue
            low, high = (start + (through <= middle[:, None]).sum(axis=1) for middle in middles)
            medians[rows] = (self.ranks[low] + self.ranks[high]) / 2
            at = rows.stop
        return medians

    def _first_window(self) -> tuple[int, int]:
        """Return the range of sorted queries to search for a resample's median: 5 standard deviations either way."""
        middle = len(self.ranks) // 2
        below = np.bincount(self.owner[:middle], minlength=self.videos) - self.sums[:, 0] / 2
        reach = int(5 * np.sqrt((below**2).sum())) + 8
        return max(0, middle - reach), min(len(self.ranks), middle + reach)

    def _widen(self) -> None:
        start, stop = self.window
        self.window = max(0, start - (stop - start)), min(len(self.ranks), stop + (stop - start))


def _interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"An interval's level is between 0 and 1, such as 0.95, not {level}.")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

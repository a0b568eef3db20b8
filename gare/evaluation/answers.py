"""The result of each query: its rank, and the answers that a model ranks first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.evaluation.metrics.query_table import TOP, Queries
from gare.evaluation.metrics.ranking import Ranking

BLOCK = 2**20
"""Number of scores sorted at once."""

FEW = 4
"""Up to this many times as many better scores as answers, a query's better scores are sorted directly."""

NONE = np.iinfo(np.int64).max
"""Placeholder for an item that is not yet found; it sorts after all items."""


@dataclass(frozen=True)
class Answers:
    """A ranking with the first K answers of each of its Q queries.

    ``items`` [Q, K]: columns of videos, or rows of texts where videos are the queries, best first; ``scores`` [Q, K].
    """

    ranking: Ranking
    items: NDArray[np.int64]
    scores: NDArray[Any]

    def queries(self, video_ids: list[str], texts: list[str]) -> Queries:
        """Replace numbers by names."""
        by_text = self.ranking.name.startswith("t2v")
        names = video_ids if by_text else texts
        return Queries(
            self.ranking,
            [video_ids[video] for video in self.ranking.video],
            texts if by_text else None,
            [[names[item] for item in row] for row in self.items.tolist()],
            self.scores.tolist(),
        )


class Best:
    """The first answers of each of Q queries among G items whose scores come in parts, in the order of the items.

    ``items`` [Q, K] and ``scores`` [Q, K]: at most ``count`` of them, best first, ties in the order of items.
    ``group`` [G]: only the best item of each group is an answer, so there are at most as many answers as groups.
    """

    def __init__(self, queries: int, items: int, count: int = TOP, group: NDArray[np.int64] | None = None) -> None:
        count = min(count, items if group is None else len(np.unique(group)))
        self._group = group
        self.items = np.full((queries, count), NONE)
        self.scores = np.full((queries, count), -np.inf)

    def add(self, queries: slice, items: slice, scores: NDArray[Any]) -> None:
        """Add the scores [q, n] of some queries and the next items."""
        numbers = np.arange(items.start, items.stop)[None]
        if self._group is not None:
            scores, numbers = _best_of_groups(scores, self._group[items], items.start)
        numbers, count = np.broadcast_to(numbers, scores.shape), self.items.shape[1]
        open_end = self.items[queries, -1] == NONE
        rows = np.flatnonzero(open_end | (scores.max(axis=1) > self.scores[queries, -1]))
        for part in blocks(len(rows), scores.shape[1]):
            mine = rows[part]
            block = scores[mine]
            better = block > self.scores[queries.start + mine, -1:]
            few = ~open_end[mine] & (np.count_nonzero(better, axis=1) <= FEW * count)
            for some, chosen in ((few, _where(better[few])), (~few, _best(block[~few], count))):
                at = mine[some][:, None]
                none = chosen < 0
                self._merge(
                    queries.start + mine[some],
                    np.where(none, NONE, numbers[at, chosen]),
                    np.where(none, -np.inf, scores[at, chosen]),
                )

    def _merge(self, queries: NDArray[np.int64], items: NDArray[np.int64], scores: NDArray[Any]) -> None:
        items = np.concatenate([self.items[queries], items], axis=1)
        scores = np.concatenate([self.scores[queries], scores], axis=1)
        items, scores = _ordered(items, scores)
        if self._group is not None:
            # A group that began in the previous part already has an answer.
            known = np.where(items == NONE, -1, self._group[np.where(items == NONE, 0, items)])
            same = (known[:, :, None] == known[:, None, :]) & (known[:, :, None] >= 0)
            again = np.tril(same, -1).any(axis=2)
            items, scores = _ordered(np.where(again, NONE, items), np.where(again, -np.inf, scores))
        count = self.items.shape[1]
        self.items[queries], self.scores[queries] = items[:, :count], scores[:, :count]


def blocks(queries: int, items: int) -> Iterator[slice]:
    """Yield slices of queries [0, ``queries``) whose scores of ``items`` items each are sorted at once."""
    step = max(1, BLOCK // max(1, items))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


def _where(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the flagged columns of each row [Q, most of a row], padded with -1."""
    row, column = np.nonzero(flags)
    counts = np.bincount(row, minlength=len(flags))
    found = np.full((len(flags), int(counts.max(initial=0))), -1)
    found[row, np.arange(len(row)) - (np.cumsum(counts) - counts)[row]] = column
    return found


def _best(block: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the columns of the highest scores of each row [Q, K], in no order; ties keep the first."""
    width = block.shape[1]
    count = min(count, width)
    chosen = np.argpartition(block, width - count, axis=1)[:, width - count :]
    found = np.take_along_axis(block, chosen, axis=1)
    # A partition takes an arbitrary choice of the items that tie for the last place.
    tied = (block >= found.min(axis=1, keepdims=True)).sum(axis=1) > count
    chosen[tied] = np.argsort(-block[tied], axis=1, kind="stable")[:, :count]
    return chosen


def _ordered(items: NDArray[np.int64], scores: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Sort each row, best first, ties in the order of items."""
    order = np.lexsort((items, -scores), axis=1)
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _best_of_groups(
    scores: NDArray[Any], group: NDArray[np.int64], start: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the best score [q, g] of each group of neighbouring columns, and the first item that has it [q, g]."""
    first = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    best = np.maximum.reduceat(scores, first, axis=1)
    lengths = np.diff(first, append=len(group))
    here = scores == np.repeat(best, lengths, axis=1)
    numbers = np.where(here, np.arange(start, start + len(group)), NONE)
    return best, np.minimum.reduceat(numbers, first, axis=1)

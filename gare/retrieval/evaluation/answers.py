"""What each query found: its rank, and the answers a model puts first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.retrieval.metrics.query_table import TOP, Queries
from gare.retrieval.metrics.ranking import Ranking

BLOCK = 2**22
"""Scores sorted at once."""


@dataclass(frozen=True)
class Answers:
    """A ranking with the first K answers of each of its Q queries.

    ``items`` [Q, K]: columns of videos, or rows of texts where videos are the queries, best first; ``scores`` [Q, K].
    """

    ranking: Ranking
    items: NDArray[np.int64]
    scores: NDArray[Any]

    def queries(self, video_ids: list[str], texts: list[str]) -> Queries:
        """The same with names in place of numbers."""
        by_text = self.ranking.name.startswith("t2v")
        names = video_ids if by_text else texts
        return Queries(
            self.ranking,
            [video_ids[video] for video in self.ranking.video],
            texts if by_text else None,
            [[names[item] for item in row] for row in self.items.tolist()],
            self.scores.tolist(),
        )


def best_videos(ranking: Ranking, scores: NDArray[Any], count: int = TOP) -> Answers:
    """The first videos of each text by ``scores`` [N, V]."""
    return Answers(ranking, *_best(scores, np.arange(len(scores)), count))


def best_texts(ranking: Ranking, scores: NDArray[Any], count: int = TOP) -> Answers:
    """The first texts of each video that has some, by ``scores`` [N, V]."""
    return Answers(ranking, *_best(scores.T, ranking.video, count))


def best_groups(ranking: Ranking, scores: NDArray[Any], owner: NDArray[np.int64], count: int = TOP) -> Answers:
    """The first texts of each video that has some, only the best of those that describe the same video."""
    many = int(np.bincount(owner).max()) * count  # so many texts hold ``count`` videos
    texts, values = _best(scores.T, ranking.video, many)
    first = np.stack([np.sort(np.unique(owner[row], return_index=True)[1])[:count] for row in texts])
    return Answers(ranking, np.take_along_axis(texts, first, axis=1), np.take_along_axis(values, first, axis=1))


def blocks(queries: int, items: int) -> Iterator[slice]:
    """Queries [0, ``queries``) in slices whose scores of so many ``items`` are sorted at once."""
    step = max(1, BLOCK // max(1, items))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


def _best(scores: NDArray[Any], rows: NDArray[np.integer], count: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Columns and scores [Q, K] of the highest scores in some rows, best first, equal ones in order of columns."""
    width = scores.shape[1]
    count = min(count, width)
    items = np.empty((len(rows), count), np.int64)
    values = np.empty((len(rows), count), scores.dtype)
    for part in blocks(len(rows), width):
        block = scores[rows[part]]
        chosen = np.argpartition(block, width - count, axis=1)[:, width - count :]
        found = np.take_along_axis(block, chosen, axis=1)
        # Which of the items that tie for the last place a partition takes is its own affair.
        open_end = (block >= found.min(axis=1, keepdims=True)).sum(axis=1) > count
        chosen[open_end] = np.argsort(-block[open_end], axis=1, kind="stable")[:, :count]
        found = np.take_along_axis(block, chosen, axis=1)
        order = np.lexsort((chosen, -found), axis=1)
        items[part] = np.take_along_axis(chosen, order, axis=1)
        values[part] = np.take_along_axis(found, order, axis=1)
    return items, values

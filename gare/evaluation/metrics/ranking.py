"""Ranks and retrieval metrics of texts against videos; ties are exact and NaN is an error.

A *t2v* query is a caption, ranked for its own video among all videos. A *v2t* query is a video with captions. It has
as many right answers as captions. There are two rules, which both count the best-ranked own caption:

- ``v2t``: among all captions. 1 + the captions of other videos that score at least as high. Own captions do not push
  each other down.
- ``v2t_grouped``: among videos, each represented by its best caption (the rule of the released CLIP4Clip code for
  MSVD). 1 + the other videos with a caption that scores at least as high. Given only if some video has several
  captions; with one caption each it equals ``v2t``.

A video without captions is in the gallery of t2v but is not a query of v2t.

Ties between a right and a wrong answer: ``pessimistic`` puts the wrong one first (1 + others at least as high),
``optimistic`` the right one (1 + others higher), ``mean`` takes the average of the two. NaN is an error; infinities
are ordinary scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import RunError
from gare.evaluation.metrics.counting import COLUMNS, ROWS, Ranks, Ties, Tile, count_ranks

RECALLS = (1, 5, 10, 50)
HIGHER_IS_BETTER = tuple(f"{direction}/R@{k}" for direction in ("t2v", "v2t") for k in RECALLS)
METRIC_NAMES = (*HIGHER_IS_BETTER, "t2v/MdR", "t2v/MnR", "v2t/MdR", "v2t/MnR")


@dataclass(frozen=True)
class Ranking:
    """Ranks of all queries of one direction.

    ``name``: direction and post-processing (t2v, v2t, v2t_grouped, t2v_dsl, ...). ``ranks`` [Q]: from 1, float64 under
    ties="mean", else int64. ``video`` [Q]: the column of each query's own video. ``gallery``: how many items it ranks.
    """

    name: str
    ranks: NDArray[Any]
    video: NDArray[np.int64]
    gallery: int

    def metrics(self) -> dict[str, float]:
        """Return R@1/5/10/50 in percent, median and mean rank, by ranking name. Raises RunError without queries."""
        if not len(self.ranks):
            raise RunError("There are no queries to measure retrieval with.")
        values = {f"{self.name}/R@{k}": 100.0 * float((self.ranks <= k).mean()) for k in RECALLS}
        middle, mean = float(np.median(self.ranks)), float(self.ranks.mean())
        return values | {f"{self.name}/MdR": middle, f"{self.name}/MnR": mean}

    def sizes(self) -> dict[str, int]:
        """Return the number of queries and the size of the gallery."""
        return {f"{self.name}/queries": len(self.ranks), f"{self.name}/gallery": self.gallery}


def rankings(scores: NDArray[Any], owner: NDArray[np.integer], *, ties: Ties = "pessimistic") -> dict[str, Ranking]:
    """Rank a whole score matrix: rankings by name, t2v, v2t, and v2t_grouped if a video has several captions.

    ``scores`` [N, V]: texts against videos, higher is better; ``owner`` [N]: the column of each text's video, in any
    order. Memory besides ``scores`` does not grow with N x V. Raises RunError for NaN and for no texts.
    """
    order = np.argsort(owner, kind="stable")
    if scores.shape[:1] != order.shape:
        raise ValueError(f"{len(order)} texts cannot have {len(scores)} rows of scores.")
    sorted_already = bool((order == np.arange(len(order))).all())

    def tile(texts: slice, videos: slice) -> NDArray[Any]:
        block: NDArray[Any] = scores[texts if sorted_already else order[texts], videos]
        return block

    ranks = count_ranks(tile, owner[order], scores.shape[1], ties=ties).in_order(order)
    return as_rankings(ranks, owner, scores.shape[1])


def tiled_rankings(
    tile: Tile,
    owner: NDArray[np.integer],
    videos: int,
    *,
    ties: Ties = "pessimistic",
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> dict[str, Ranking]:
    """Rank scores that exist only in tiles, as ``rankings`` does.

    ``tile(texts, videos)`` returns the scores [r, c] of two slices, the same numbers every time; tiles with own pairs
    are requested twice. ``owner`` [N]: the column of each text's video, ascending: texts come sorted by video. Memory
    besides the tile grows with N + V. Raises RunError for NaN and for no texts.
    """
    return as_rankings(count_ranks(tile, owner, videos, ties=ties, rows=rows, columns=columns), owner, videos)


def as_rankings(ranks: Ranks, owner: NDArray[np.integer], videos: int) -> dict[str, Ranking]:
    """Name counted ranks; ``owner`` is in the order of ``ranks.t2v``."""
    found = {
        "t2v": Ranking("t2v", ranks.t2v, np.asarray(owner, np.int64), videos),
        "v2t": Ranking("v2t", ranks.v2t, ranks.captioned, len(owner)),
    }
    if ranks.v2t_grouped is not None:
        found["v2t_grouped"] = Ranking("v2t_grouped", ranks.v2t_grouped, ranks.captioned, len(ranks.captioned))
    return found


def retrieval_metrics(scores: NDArray[Any], owner: NDArray[np.integer]) -> dict[str, float]:
    """Return the metrics ``METRIC_NAMES``, which choose checkpoints and trials: t2v and v2t, ties pessimistic."""
    found = rankings(scores, owner)
    return found["t2v"].metrics() | found["v2t"].metrics()

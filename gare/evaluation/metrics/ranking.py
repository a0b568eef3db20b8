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
from gare.evaluation.metrics.counting import COLUMNS, ROWS, Ranks, Ties, Tile, count_views

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


def tiled_rankings(
    tile: Tile,
    owner: NDArray[np.integer],
    videos: int,
    *,
    ties: Ties = "pessimistic",
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> dict[str, Ranking]:
    """Rank scores that come in tiles: rankings by name, t2v, v2t, and v2t_grouped if a video has several captions.

    ``tile(texts, videos)`` returns the scores [r, c] of two slices, the same numbers every time; tiles with own pairs
    are requested twice. ``owner`` [N]: the column of each text's video, ascending: texts come sorted by video. Memory
    besides the tile grows with N + V. Raises RunError for NaN and for no texts.
    """
    views = {"": lambda scores, _texts, _videos: scores}
    ranks = count_views(tile, views, owner, videos, ties=ties, rows=rows, columns=columns)[""]
    return as_rankings(ranks, owner, videos)


def as_rankings(ranks: Ranks, owner: NDArray[np.integer], videos: int) -> dict[str, Ranking]:
    """Name counted ranks; ``owner`` is in the order of ``ranks.t2v``."""
    found = {
        "t2v": Ranking("t2v", ranks.t2v, np.asarray(owner, np.int64), videos),
        "v2t": Ranking("v2t", ranks.v2t, ranks.captioned, len(owner)),
    }
    if ranks.v2t_grouped is not None:
        found["v2t_grouped"] = Ranking("v2t_grouped", ranks.v2t_grouped, ranks.captioned, len(ranks.captioned))
    return found

"""All scores of a split, in tiles: kept where they are few, made again for every pass where they are many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.evaluation.metrics.counting import grid
from gare.evaluation.scorer import Scorer

KEPT = 2**26
"""Most scores that are kept: 256 MB. Every benchmark has fewer."""

SIDE = 2040
"""Texts and videos of a tile."""


class Scores:
    """Scores [N, V] of encoded texts and videos; ``encoded`` things are cut by slices.

    At most ``KEPT`` scores are made once, all together, and kept. Of more, a tile is made whenever it is asked for: the
    same tile has the same numbers every time, and memory does not grow with N x V.
    """

    def __init__(self, scorer: Scorer, texts: Any, videos: Any, shape: tuple[int, int]) -> None:
        self._scorer, self._texts, self._videos, self.shape = scorer, texts, videos, shape
        self._whole: NDArray[np.float32] | None = None

    def __call__(self, texts: slice, videos: slice) -> NDArray[np.float32]:
        """Scores [r, c] of some texts and videos, in main memory."""
        if self.shape[0] * self.shape[1] > KEPT:
            return self._score(self._texts[texts], self._videos[videos])
        return self.whole()[texts, videos]

    def whole(self) -> NDArray[np.float32]:
        """The matrix [N, V]; it grows with N x V, so it is for few scores."""
        if self._whole is None:
            self._whole = self._score(self._texts, self._videos)
        return self._whole

    def tiles(self) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
        """Every tile once, those of the same texts one after another."""
        for texts, videos in grid(*self.shape, SIDE, SIDE):
            yield texts, videos, self(texts, videos)

    def _score(self, texts: Any, videos: Any) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._scorer.score(texts, videos).float().cpu().numpy()
        return scores

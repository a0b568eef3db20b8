"""Encode sentences and videos as vectors, score vectors, and make all scores of a split in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gare.config import Config
from gare.data.shards import Split
from gare.evaluation.encode import FrameChoice, encode_texts, encode_videos, score_pairs
from gare.evaluation.metrics.counting import grid
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.world import SINGLE, World
from gare.scoring.factors import Texts, Videos

KEPT = 2**26
"""Most scores to keep in memory: 256 MB. Every benchmark has fewer."""

SIDE = 2040
"""Texts and videos of a tile."""


class Scorer(Protocol):
    """A model with the settings it is evaluated under."""

    @property
    def scale(self) -> float:
        """The factor of the scores in the model's softmax."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """Encode sentences as vectors; a slice of the result holds the vectors of a slice of the sentences."""
        ...

    def encode_videos(self, split: Split, videos: Sequence[int]) -> Any:
        """Encode the numbered videos of a split; a slice of the result holds the vectors of a slice of the videos."""
        ...

    def score(self, texts: Any, videos: Any) -> Tensor:
        """Return all scores [N, V] of encoded texts and videos, higher is better."""
        ...


@dataclass(frozen=True)
class GareScorer:
    """A trained model; the same on every rank."""

    model: GareModel
    tokenizer: Tokenizer
    config: Config
    frames: FrameChoice = "all"
    world: World = SINGLE

    @property
    def scale(self) -> float:
        """The exponential of the learned logit scale."""
        return self.model.logit_scale.item()

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Encode texts, with word vectors if the model reads them."""
        words, batch = self.config.data.words, self.config.runtime.eval_batch
        return encode_texts(self.model, self.tokenizer, texts, words, batch, self.world)

    def encode_videos(self, split: Split, videos: Sequence[int]) -> Videos:
        """Encode videos as frame vectors."""
        data, batch = self.config.data, self.config.runtime.eval_batch
        return encode_videos(self.model, split, data, batch, self.world, self.frames, videos=videos)

    def score(self, texts: Texts, videos: Videos) -> Tensor:
        """Return the cosines of the head."""
        return score_pairs(self.model, texts, videos, self.config.runtime.score_rows, self.world)


class Scores:
    """Scores [N, V] of encoded texts and videos, which slices can cut.

    Up to ``KEPT`` scores are made once, all together, and kept. Beyond, each tile is made on request: the same tile has
    the same numbers every time, and memory does not grow with N x V.
    """

    def __init__(self, scorer: Scorer, texts: Any, videos: Any, shape: tuple[int, int]) -> None:
        self._scorer, self._texts, self._videos, self.shape = scorer, texts, videos, shape
        self._whole: NDArray[np.float32] | None = None

    def __call__(self, texts: slice, videos: slice) -> NDArray[np.float32]:
        """Return the scores [r, c] of some texts and videos, in main memory."""
        if self.shape[0] * self.shape[1] > KEPT:
            return self._score(self._texts[texts], self._videos[videos])
        return self.whole()[texts, videos]

    def whole(self) -> NDArray[np.float32]:
        """Return the matrix [N, V]; it grows with N x V, so use it only for few scores."""
        if self._whole is None:
            self._whole = self._score(self._texts, self._videos)
        return self._whole

    def tiles(self) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
        """Yield every tile once, those of the same texts in succession."""
        for texts, videos in grid(*self.shape, SIDE, SIDE):
            yield texts, videos, self(texts, videos)

    def _score(self, texts: Any, videos: Any) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._scorer.score(texts, videos).float().cpu().numpy()
        return scores

"""What an evaluation needs of a model: sentences and videos to vectors, vectors to scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from gare.config import Config
from gare.data.shards import Split
from gare.evaluation.encode import FrameChoice, encode_texts, encode_videos, score_pairs
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.world import SINGLE, World
from gare.scoring.factors import Texts, Videos


class Scorer(Protocol):
    """A model with the settings it is evaluated under."""

    @property
    def scale(self) -> float:
        """What the model's softmax multiplies its scores by."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """Vectors of sentences; a slice of what it gives is of those sentences."""
        ...

    def encode_videos(self, split: Split, videos: Sequence[int]) -> Any:
        """Vectors of the numbered videos of a split; a slice of what it gives is of those videos."""
        ...

    def score(self, texts: Any, videos: Any) -> Tensor:
        """All scores [N, V] of encoded texts and videos, higher is better."""
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
        """Exp of the learned logit scale."""
        return self.model.logit_scale.item()

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Text vectors, with word vectors where the model reads them."""
        words, batch = self.config.data.words, self.config.runtime.eval_batch
        return encode_texts(self.model, self.tokenizer, texts, words, batch, self.world)

    def encode_videos(self, split: Split, videos: Sequence[int]) -> Videos:
        """Frame vectors."""
        data, batch = self.config.data, self.config.runtime.eval_batch
        return encode_videos(self.model, split, data, batch, self.world, self.frames, videos=videos)

    def score(self, texts: Texts, videos: Videos) -> Tensor:
        """Cosines of the head."""
        return score_pairs(self.model, texts, videos, self.config.runtime.score_rows, self.world)

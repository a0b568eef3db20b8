"""How well a model retrieves a split: every caption a text query, every video in the gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.config import Config
from gare.data.shards import Split
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.ranks import ALONE, Ranks
from gare.retrieval.encode import FrameChoice, encode_texts, encode_videos, score_pairs
from gare.retrieval.metrics import retrieval_metrics


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, the cosines [N, V], each text and the column of its video."""

    metrics: dict[str, float]
    scores: NDArray[np.float32]
    texts: list[str]
    owner: NDArray[np.int64]

    def sizes(self) -> dict[str, int]:
        """Queries and gallery of both directions."""
        captioned = len(np.unique(self.owner))
        texts, videos = self.scores.shape
        return {"t2v/queries": texts, "t2v/gallery": videos, "v2t/queries": captioned, "v2t/gallery": texts}


def evaluate(
    model: GareModel,
    tokenizer: Tokenizer,
    split: Split,
    config: Config,
    *,
    ranks: Ranks = ALONE,
    frames: FrameChoice = "all",
) -> Evaluation:
    """Score all captions of a split against all its videos; the same on every rank. Leaves the model in eval mode."""
    model.eval()
    pairs = [(caption, index) for index, video in enumerate(split.videos) for caption in video.captions]
    if not pairs:
        raise InputError(f"The split {split.name!r} of {split.folder} has no captions to query with.")
    texts = [caption for caption, _ in pairs]
    owner = np.array([index for _, index in pairs], np.int64)
    runtime = config.runtime
    encoded_texts = encode_texts(model, tokenizer, texts, config.data.words, runtime.eval_batch, ranks)
    encoded_videos = encode_videos(model, split, config.data.frames, runtime.eval_batch, ranks, frames)
    scores = score_pairs(model, encoded_texts, encoded_videos, runtime.score_rows, ranks).float().cpu().numpy()
    return Evaluation(retrieval_metrics(scores, owner), scores, texts, owner)

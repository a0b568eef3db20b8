"""Score and rank a split: every caption is a text query, every video is in the gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.config import Config
from gare.data.shards import Split
from gare.evaluation.encode import FrameChoice
from gare.evaluation.metrics.counting import Ties
from gare.evaluation.metrics.ranking import Ranking, tiled_rankings
from gare.evaluation.scorer import SIDE, GareScorer, Scorer, Scores
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.world import SINGLE, World


@dataclass(frozen=True)
class Evaluation:
    """Scores [N, V] of all texts against all videos, the texts, the column of each one's video, and raw rankings."""

    scores: Scores
    texts: list[str]
    owner: NDArray[np.int64]
    rankings: dict[str, Ranking]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of t2v and v2t, which choose checkpoints and trials."""
        return self.rankings["t2v"].metrics() | self.rankings["v2t"].metrics()


def evaluate(
    model: GareModel,
    tokenizer: Tokenizer,
    split: Split,
    config: Config,
    *,
    world: World = SINGLE,
    frames: FrameChoice = "all",
) -> Evaluation:
    """Score all captions of a split against all its videos; the same on every rank. Leaves the model in eval mode."""
    model.eval()
    return score_split(GareScorer(model, tokenizer, config, frames, world), split)


def score_split(scorer: Scorer, split: Split, *, ties: Ties = "pessimistic") -> Evaluation:
    """Score and rank all captions of a split against all its videos. Raises InputError without captions."""
    texts, owner = queries(split)
    videos = scorer.encode_videos(split, range(len(split)))
    scores = Scores(scorer, scorer.encode_texts(texts), videos, (len(texts), len(split)))
    found = tiled_rankings(scores, owner, len(split), ties=ties, rows=SIDE, columns=SIDE)
    return Evaluation(scores, texts, owner, found)


def queries(split: Split) -> tuple[list[str], NDArray[np.int64]]:
    """Return a split's captions in order and the number of each one's video, ascending. Raises InputError for none."""
    pairs = [(caption, number) for number, video in enumerate(split.videos) for caption in video.captions]
    if not pairs:
        raise InputError(f"The split {split.name!r} of {split.folder} has no captions to query with.")
    return [caption for caption, _ in pairs], np.array([number for _, number in pairs], np.int64)

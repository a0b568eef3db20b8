"""A whole evaluation: raw rankings, post-processed ones beside them, intervals, and what each query found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.data.shards import Split
from gare.retrieval.evaluation.answers import Answers, best_groups, best_texts, best_videos, blocks
from gare.retrieval.evaluation.evaluate import Evaluation, queries, score
from gare.retrieval.evaluation.postprocess import dual_softmax, querybank
from gare.retrieval.evaluation.query_bank import QueryBank
from gare.retrieval.evaluation.scorer import Scorer
from gare.retrieval.metrics.bootstrap import RESAMPLES, intervals
from gare.retrieval.metrics.counting import Ties
from gare.retrieval.metrics.ranking import Ranking, rankings

LEVEL = 0.95
SEED = 0

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measurement:
    """``answers`` by the ranking's name, raw ones first; ``intervals`` by metric, empty with no resamples."""

    evaluation: Evaluation
    answers: dict[str, Answers]
    intervals: dict[str, Interval]
    resamples: int
    ties: Ties
    scale: float
    bank: QueryBank | None

    def metrics(self) -> dict[str, float]:
        """The metrics of all rankings."""
        return {name: value for found in self.answers.values() for name, value in found.ranking.metrics().items()}

    def sizes(self) -> dict[str, int]:
        """Queries and gallery of all rankings."""
        return {name: value for found in self.answers.values() for name, value in found.ranking.sizes().items()}

    def postprocessing(self) -> dict[str, dict[str, Any]]:
        """What the post-processed rankings were made with, by the tag in their names."""
        said: dict[str, dict[str, Any]] = {"dsl": {"name": "dual softmax", "scale": self.scale}}
        if self.bank is not None:
            said["qbnorm"] = {
                "name": "QB-Norm",
                "beta": self.scale,
                "split": self.bank.split.name,
                "captions": len(self.bank.texts),
                "videos": len(self.bank.videos),
                "seed": self.bank.seed,
            }
        return said


def measure(
    scorer: Scorer,
    split: Split,
    *,
    ties: Ties = "pessimistic",
    bank: QueryBank | None = None,
    resamples: int = RESAMPLES,
) -> Measurement:
    """Score all captions of a split against all its videos, and rank them raw and post-processed.

    ``bank``: QB-Norm is measured with it; None leaves it out. ``resamples``: of the bootstrap; 0 for no intervals.
    Beside the scores [N, V] it holds one array of that size at a time, in float64. Raises InputError for a split
    without captions and RunError for scores that are NaN.
    """
    texts, owner = queries(split)
    encoded = scorer.encode_texts(texts), scorer.encode_videos(split, range(len(split)))
    scores = score(scorer, *encoded)
    banks = _score_bank(scorer, bank, *encoded) if bank is not None else None
    del encoded
    evaluation = Evaluation(scores, texts, owner, rankings(scores, owner, ties=ties))
    answers = {name: _answers(ranking, scores, owner) for name, ranking in evaluation.rankings.items()}
    for name, processed in postprocessed(scores, scorer.scale, banks):
        direction = name.partition("_")[0]
        ranking = rankings(processed, owner, ties=ties)[direction]
        answers[name] = _answers(replace(ranking, name=name), processed, owner)
    bounds: dict[str, Interval] = {}
    for found in answers.values() if resamples else ():
        bounds |= intervals(found.ranking, level=LEVEL, resamples=resamples, seed=SEED)
    return Measurement(evaluation, answers, bounds, resamples, ties, scorer.scale, bank)


def postprocessed(
    scores: NDArray[np.float32], scale: float, banks: tuple[NDArray[Any], NDArray[Any]] | None
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Names of rankings and the scores [N, V] to make them of: always the same array, filled again for each.

    ``banks``: scores of other texts against the videos, [B, V], and of other videos against the texts, [B, N].
    """
    count, gallery = scores.shape
    out = np.empty(scores.shape, np.float64)
    for part in blocks(gallery, count):
        out[:, part] = dual_softmax(scores[:, part], scale)[0]
    yield "t2v_dsl", out
    for part in blocks(count, gallery):
        out[part] = dual_softmax(scores[part], scale)[1]
    yield "v2t_dsl", out
    if banks is None:
        return
    by_texts, by_videos = banks
    for part in blocks(count, gallery):
        out[part] = querybank(scores[part], by_texts, scale)
    yield "t2v_qbnorm", out
    for part in blocks(gallery, count):
        out[:, part] = querybank(scores[:, part].T, by_videos, scale).T
    yield "v2t_qbnorm", out


def _score_bank(scorer: Scorer, bank: QueryBank, texts: Any, videos: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores of the bank's texts against the videos [B, V], and of its videos against the texts [B, N]."""
    by_texts = score(scorer, scorer.encode_texts(bank.texts), videos)
    by_videos = score(scorer, texts, scorer.encode_videos(bank.split, bank.videos))
    return by_texts, by_videos.T


def _answers(ranking: Ranking, scores: NDArray[Any], owner: NDArray[np.int64]) -> Answers:
    if ranking.name.startswith("t2v"):
        return best_videos(ranking, scores)
    return best_groups(ranking, scores, owner) if ranking.name == "v2t_grouped" else best_texts(ranking, scores)

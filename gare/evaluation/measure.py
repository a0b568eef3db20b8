"""Run a whole evaluation: raw and post-processed rankings, intervals, and the result of each query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.data.shards import Split
from gare.evaluation.answers import Answers, Best
from gare.evaluation.evaluate import Evaluation, queries
from gare.evaluation.metrics.bootstrap import RESAMPLES, intervals
from gare.evaluation.metrics.counting import Ties, View, count_views
from gare.evaluation.metrics.ranking import Ranking, as_rankings
from gare.evaluation.postprocess import QueryBank, bank_powers, dual_softmax, powers, querybank
from gare.evaluation.scorer import SIDE, Scorer, Scores

LEVEL = 0.95
SEED = 0
RAW = ""
"""The view of unchanged scores."""

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
        """Return the metrics of all rankings."""
        return {name: value for found in self.answers.values() for name, value in found.ranking.metrics().items()}

    def sizes(self) -> dict[str, int]:
        """Return the numbers of queries and gallery items of all rankings."""
        return {name: value for found in self.answers.values() for name, value in found.ranking.sizes().items()}

    def postprocessing(self) -> dict[str, dict[str, Any]]:
        """Describe the post-processing by the tag in the rankings' names."""
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

    ``bank``: query bank for QB-Norm; None leaves it out. ``resamples``: of the bootstrap; 0 for no intervals.
    Scores are made and counted in tiles (``Scores``): memory grows with N + V, not with N x V. Raises InputError for a
    split without captions and RunError for scores that are NaN.
    """
    texts, owner = queries(split)
    encoded = scorer.encode_texts(texts), scorer.encode_videos(split, range(len(split)))
    scores = Scores(scorer, *encoded, (len(texts), len(split)))
    views = {RAW: _as_it_is} | _postprocessed(scorer, scores, bank, *encoded)
    first = FirstAnswers(owner, scores.shape, views)
    counted = count_views(scores, views, owner, len(split), ties=ties, rows=SIDE, columns=SIDE, seen=first.add)
    raw = as_rankings(counted.pop(RAW), owner, len(split))
    rankings = dict(raw)
    for name, ranks in counted.items():
        direction = name.partition("_")[0]
        rankings[name] = replace(as_rankings(ranks, owner, len(split))[direction], name=name)
    answers = {name: first.answers(ranking) for name, ranking in rankings.items()}
    bounds: dict[str, Interval] = {}
    for ranking in rankings.values() if resamples else ():
        bounds |= intervals(ranking, level=LEVEL, resamples=resamples, seed=SEED)
    return Measurement(Evaluation(scores, texts, owner, raw), answers, bounds, resamples, ties, scorer.scale, bank)


class FirstAnswers:
    """Collects the first answers of every ranking while tiles are counted."""

    def __init__(self, owner: NDArray[np.int64], shape: tuple[int, int], views: Iterable[str]) -> None:
        texts, videos = shape
        self._best = {"v2t_grouped": Best(videos, texts, group=owner)} if np.bincount(owner).max() > 1 else {}
        for name in ("t2v", "v2t", *(view for view in views if view != RAW)):
            self._best[name] = Best(texts, videos) if name.startswith("t2v") else Best(videos, texts)

    def add(self, view: str, texts: slice, videos: slice, scores: NDArray[Any]) -> None:
        """Add a tile [r, c] of a view."""
        for name in [name for name in ("t2v", "v2t", "v2t_grouped") if name in self._best] if view == RAW else [view]:
            if name.startswith("t2v"):
                self._best[name].add(texts, videos, scores)
            else:
                self._best[name].add(videos, texts, scores.T)

    def answers(self, ranking: Ranking) -> Answers:
        """Return a ranking with its queries' answers."""
        best = self._best[ranking.name]
        rows = slice(None) if ranking.name.startswith("t2v") else ranking.video
        return Answers(ranking, best.items[rows], best.scores[rows])


def _postprocessed(scorer: Scorer, scores: Scores, bank: QueryBank | None, texts: Any, videos: Any) -> dict[str, View]:
    """Make the post-processing of a tile, by the ranking's name; empty if a score is NaN, which counting rejects."""
    gathered = powers(scores, scorer.scale)
    if gathered is None:
        return {}
    by_text, by_video = gathered
    found = {f"{direction}_dsl": view for direction, view in dual_softmax(by_text, by_video).items()}
    if bank is None:
        return found
    of_texts = Scores(scorer, scorer.encode_texts(bank.texts), videos, (len(bank.texts), scores.shape[1]))
    of_videos = Scores(
        scorer, texts, scorer.encode_videos(bank.split, bank.videos), (scores.shape[0], len(bank.videos))
    )
    by_texts = bank_powers(of_texts, len(bank.texts), scores.shape[1], scorer.scale)
    by_videos = bank_powers(lambda b, part: of_videos(part, b).T, len(bank.videos), scores.shape[0], scorer.scale)
    found["t2v_qbnorm"] = querybank(by_text, *by_texts, "t2v")
    found["v2t_qbnorm"] = querybank(by_video, *by_videos, "v2t")
    return found


def _as_it_is(scores: NDArray[Any], _texts: slice, _videos: slice) -> NDArray[Any]:
    return scores

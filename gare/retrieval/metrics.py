"""Retrieval metrics from a score matrix: correct on ties, loud on NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import RunError

RECALLS = (1, 5, 10, 50)
HIGHER_IS_BETTER = tuple(f"{direction}/R@{k}" for direction in ("t2v", "v2t") for k in RECALLS)
METRIC_NAMES = (*HIGHER_IS_BETTER, "t2v/MdR", "t2v/MnR", "v2t/MdR", "v2t/MnR")


def text_to_video_ranks(scores: NDArray[np.floating], owner: NDArray[np.integer]) -> NDArray[np.int64]:
    """Rank (from 1) of each text's own video, [N].

    ``scores`` [N, V]: texts against videos; ``owner`` [N]: the column of each text's video. Ties count
    against the query: the rank is 1 + the number of other videos that score at least as high.
    """
    _check(scores)
    target = scores[np.arange(len(scores)), owner]
    ranks: NDArray[np.int64] = (scores >= target[:, None]).sum(axis=1)
    return ranks


def video_to_text_ranks(scores: NDArray[np.floating], owner: NDArray[np.integer]) -> NDArray[np.int64]:
    """Rank (from 1) of the best-ranked own caption of each video that has one, in column order.

    1 + the number of other videos' captions that score at least as high as the best own one.
    """
    _check(scores)
    ranks = []
    for video in np.unique(owner):
        own = owner == video
        column = scores[:, video]
        ranks.append(1 + int((column[~own] >= column[own].max()).sum()))
    return np.array(ranks, np.int64)


def summarise(ranks: NDArray[np.int64], direction: str) -> dict[str, float]:
    """R@1/5/10/50 in percent, median and mean rank, under ``direction`` (``t2v`` or ``v2t``)."""
    if not len(ranks):
        raise RunError("There are no queries to measure retrieval with.")
    values = {f"{direction}/R@{k}": 100.0 * float((ranks <= k).mean()) for k in RECALLS}
    return values | {f"{direction}/MdR": float(np.median(ranks)), f"{direction}/MnR": float(ranks.mean())}


def retrieval_metrics(scores: NDArray[np.floating], owner: NDArray[np.integer]) -> dict[str, float]:
    """Both directions' metrics: every caption a text query, every video with captions a video query."""
    return summarise(text_to_video_ranks(scores, owner), "t2v") | summarise(video_to_text_ranks(scores, owner), "v2t")


def _check(scores: NDArray[np.floating]) -> None:
    bad = int(np.isnan(scores).sum())
    if bad:
        raise RunError(f"{bad} of {scores.size} scores are NaN; no metric can be trusted. The model has diverged.")

"""Correct scores for hubs, which are close to everything; reported in addition to the raw scores.

Both corrections first need two figures of a whole row or column: its highest score, and the sum of all powers. These
are gathered tile by tile, in float64; then each tile is corrected by itself. Nothing as large as all scores is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.data.shards import Split
from gare.evaluation.metrics.counting import Tile, View, strips
from gare.evaluation.scorer import Scores

LARGEST_EXPONENT = 700.0
"""Beyond this exponent, or below its negative, float64 cannot represent exp usefully."""

BANK_SCORES = 2**22
"""Number of query bank scores processed together."""


class Powers:
    """For each of Q lists of scores: ``first``, the place of the highest, and the sum of exp(scale x score).

    ``highest`` [Q] is scale x the highest score, ``total`` [Q] the sum relative to it. Ties keep the first.
    """

    def __init__(self, count: int, scale: float) -> None:
        self.scale = scale
        self.highest = np.full(count, -np.inf)
        self.total = np.zeros(count)
        self.first = np.zeros(count, np.int64)

    def add(self, lists: slice, start: int, scores: NDArray[np.floating]) -> None:
        """Add scores [q, n], from place ``start`` on, to some of the lists; they come in the order of places."""
        exponents = scores.astype(np.float64)
        exponents *= self.scale
        old, best = self.highest[lists], exponents.max(axis=1)
        new = np.maximum(old, best)
        self.first[lists] = np.where(best > old, start + scores.argmax(axis=1), self.first[lists])
        exponents -= new[:, None]
        np.exp(exponents, out=exponents)
        self.total[lists] = self.total[lists] * np.exp(old - new) + exponents.sum(axis=1)
        self.highest[lists] = new

    def log_total(self) -> NDArray[np.float64]:
        """Return the logarithm of the sum, [Q]."""
        return np.asarray(self.highest + np.log(self.total), np.float64)


def powers(scores: Scores, scale: float) -> tuple[Powers, Powers] | None:
    """Return the powers of the rows and of the columns of scores [N, V]; None if a score is NaN.

    Raises InputError for a scale that is not above 0 or too large for float64.
    """
    refused = InputError(f"A dual softmax with the scale {scale} cannot be computed; CLIP's own, about 100, can.")
    if not 0 < scale < np.inf:
        raise refused
    by_text, by_video = Powers(scores.shape[0], scale), Powers(scores.shape[1], scale)
    low, high = np.inf, -np.inf
    for texts, videos, tile in scores.tiles():
        lowest, best = float(tile.min()), float(tile.max())
        if np.isnan(best):
            return None
        low, high = min(low, lowest), max(high, best)
        if scale * (high - low) > LARGEST_EXPONENT:
            raise refused
        for part, strip in strips(tile, texts.start):
            by_text.add(part, videos.start, strip)
            by_video.add(videos, part.start, strip.T)
    return by_text, by_video


def dual_softmax(by_text: Powers, by_video: Powers) -> dict[str, View]:
    """Dual softmax of cosines (CAMoE, arXiv 2109.04290), for t2v and for v2t.

    t2v: each cosine times the softmax of scale x cosines over the texts, at its video; v2t: times the softmax over the
    videos, at its text. A negative cosine stays as it is, below all others: multiplied by a probability, it would rise
    the less likely the pair is. This is transductive: a query's scores depend on all other queries of the split, which
    a search for one sentence does not have.
    """

    def correct(tile: NDArray[np.floating], highest: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray:  # type: ignore[type-arg]
        cosines = tile.astype(np.float64)
        corrected = by_text.scale * cosines
        corrected -= highest
        np.exp(corrected, out=corrected)
        corrected /= total
        corrected *= cosines
        # A share is at most 1: it lowers values above 0, but would raise those below.
        return np.minimum(corrected, cosines, out=corrected)

    return {
        "t2v": lambda tile, _, videos: correct(tile, by_video.highest[videos], by_video.total[videos]),
        "v2t": lambda tile, texts, _: correct(tile, by_text.highest[texts, None], by_text.total[texts, None]),
    }


def bank_powers(bank: Tile, size: int, gallery: int, beta: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Reduce a query bank's scores [B, G] for QB-Norm: the log of each item's sum of powers, and the active items.

    An item of the gallery is active if a query of the bank ranks it first; ties keep the first item. Raises
    InputError for an empty bank and for a beta that is not above 0.
    """
    if not size:
        raise InputError("An empty query bank cannot normalise scores.")
    if not 0 < beta < np.inf:
        raise _beyond(beta)
    items, queries = Powers(gallery, beta), Powers(size, beta)
    step = max(1, BANK_SCORES // size)
    for start in range(0, gallery, step):
        part = slice(start, min(start + step, gallery))
        scores = bank(slice(0, size), part)
        items.add(part, 0, scores.T)
        queries.add(slice(0, size), start, scores)
    active = np.zeros(gallery, bool)
    active[queries.first] = True
    return items.log_total(), active


def querybank(raw: Powers, log_total: NDArray[np.float64], active: NDArray[np.bool_], direction: str) -> View:
    """QB-Norm by the dynamic inverted softmax (Bogolin et al., CVPR 2022).

    A query that itself ranks an active item first gets the new score exp(beta s) / (sum over the bank of exp(beta s_b))
    for every item; every other query keeps its own scores. ``raw``: powers of the queries, the rows of a tile for t2v
    and its columns for v2t; its scale is beta. Correcting a tile raises InputError for a beta too large for float64.
    """
    chosen = active[raw.first]

    def correct(tile: NDArray[np.floating], queries: slice, items: slice) -> NDArray:  # type: ignore[type-arg]
        scores = tile.astype(np.float64)
        mine = chosen[queries]
        exponents = raw.scale * scores[mine] - log_total[items]
        if (np.abs(exponents) > LARGEST_EXPONENT).any():
            raise _beyond(raw.scale)
        scores[mine] = np.exp(exponents)
        return scores

    if direction == "t2v":
        return correct
    return lambda tile, texts, videos: correct(tile.T, videos, texts).T


def _beyond(beta: float) -> InputError:
    return InputError(f"A querybank with beta {beta} cannot be computed; 20 is the default of its authors.")


@dataclass(frozen=True)
class QueryBank:
    """``texts``: captions drawn from ``split``; ``videos``: numbers of videos drawn from it."""

    split: Split
    texts: list[str]
    videos: list[int]
    seed: int


def draw_bank(train: Split, evaluated: Split, size: int, seed: int) -> QueryBank:
    """Draw ``size`` captions and as many videos of ``train``, or all if there are fewer.

    Raises InputError if ``train`` is the evaluated split, whose queries must stay unknown, or has no captions.
    """
    if train.name == evaluated.name:
        raise InputError(
            f"The query bank cannot come from {train.name!r}, the split that is evaluated; leave out --query-bank."
        )
    captions = [caption for video in train.videos for caption in video.captions]
    if not captions:
        raise InputError(f"The split {train.name!r} of {train.folder} has no captions for a query bank.")
    random = np.random.default_rng(seed)
    texts = random.choice(len(captions), min(size, len(captions)), replace=False)
    videos = random.choice(len(train), min(size, len(train)), replace=False)
    return QueryBank(train, [captions[i] for i in np.sort(texts)], np.sort(videos).tolist(), seed)

"""Scores corrected for hubs, which are near to everything. Reported beside the raw scores, never instead of them.

Both work on whole matrices, in float64: a few times their memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import InputError

LARGEST_EXPONENT = 700.0
"""exp of more, or of less than its negative, is no number float64 can tell from others."""


def dual_softmax(scores: NDArray[Any], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dual softmax of cosines [N, V] (CAMoE, arXiv 2109.04290): the scores for t2v and those for v2t, each [N, V].

    t2v: each cosine times the softmax of ``scale`` x cosines over the texts, at its video; v2t: times the softmax over
    the videos, at its text. A negative cosine stays as it is, below all others: times a probability it would rise with
    how unlikely the pair is. This is transductive: a query's scores depend on all other queries of the split, which a
    search for one sentence does not have. Raises InputError for a scale that is not above 0 or too large for float64.
    """
    cosines = np.asarray(scores, np.float64)
    if not 0 < scale < np.inf or (cosines.size and scale * np.ptp(cosines) > LARGEST_EXPONENT):
        raise InputError(f"A dual softmax with the scale {scale} cannot be computed; CLIP's own, about 100, can.")
    of_texts, of_videos = (_softmax(scale * cosines, axis) for axis in (0, 1))
    negative = cosines < 0
    return np.where(negative, cosines, cosines * of_texts), np.where(negative, cosines, cosines * of_videos)


def querybank(scores: NDArray[Any], bank: NDArray[Any], beta: float) -> NDArray[np.float64]:
    """QB-Norm by the dynamic inverted softmax (Bogolin et al., CVPR 2022) of scores [Q, G], again [Q, G].

    ``bank`` [B, G]: scores of a bank of other queries, such as training captions, against the same gallery. An item of
    the gallery is active when a query of the bank ranks it first. A query that itself ranks an active item first gets
    the new score exp(beta s) / (sum over the bank of exp(beta s_b)) for every item; every other query keeps its own
    scores. A row holds one kind of score, so ranks are comparable within a query and never down a column: for v2t give
    both matrices the other way round. Of items that tie for the first place the first in order counts.

    Raises InputError for an empty bank, another gallery, and a beta that is not above 0 or too large for float64.
    """
    raw, known = np.asarray(scores, np.float64), np.asarray(bank, np.float64)
    if not len(known) or known.shape[1:] != raw.shape[1:]:
        raise InputError(f"A bank of {known.shape} scores cannot normalise {raw.shape}: the gallery must be the same.")
    refused = InputError(f"A querybank with beta {beta} cannot be computed; 20 is the default of its authors.")
    if not 0 < beta < np.inf:
        raise refused
    active = np.isin(raw.argmax(axis=1), known.argmax(axis=1))
    highest = known.max(axis=0)
    log_total = beta * highest + np.log(np.exp(beta * (known - highest)).sum(axis=0))
    exponents = beta * raw[active] - log_total
    if (np.abs(exponents) > LARGEST_EXPONENT).any():
        raise refused
    normalised = raw.copy()
    normalised[active] = np.exp(exponents)
    return normalised


def _softmax(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))

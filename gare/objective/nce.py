"""Symmetric InfoNCE."""

from __future__ import annotations

from torch import Tensor

from gare.objective.ranks import ALONE, Ranks


def info_nce(logits: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """L_nce: half the mean over rows of -log softmax at the diagonal, plus half the same over columns.

    ``logits``: this rank's rows [b, B] of exp(logit_scale) cos, B = b x ranks; row i matches column
    rank b + i. Returns a scalar, this rank's share: the shares over all ranks sum to the loss.
    """
    rows, columns = logits.shape
    own = ranks.own(rows)
    diagonal = logits[:, own].diagonal()
    row_part = (logits.logsumexp(dim=1) - diagonal).sum()
    shift = ranks.max(logits.max(dim=0).values)
    normaliser = ranks.sum((logits - shift).exp().sum(dim=0)).log() + shift
    column_part = (normaliser[own] - diagonal).sum()
    return (row_part + column_part) / (2 * columns)

"""Symmetric InfoNCE."""

from __future__ import annotations

import torch
from torch import Tensor

from gare.objective.world import SINGLE, World


def info_nce(logits: Tensor, world: World = SINGLE, false_negatives: Tensor | None = None) -> Tensor:
    """L_nce: half the mean over rows of -log softmax at the diagonal, plus half the same over columns.

    Args:
        logits: this rank's rows [b, B] of exp(logit_scale) cos, B = b x ranks; row i matches column rank b + i.
        world: the ranks.
        false_negatives: bool [b, B], pairs known to match, which both softmaxes leave out; its diagonal is ignored.

    Returns a scalar, this rank's share: the shares of all ranks sum to the loss.

    """
    rows, columns = logits.shape
    own = world.own(rows)
    diagonal = logits[:, own].diagonal()
    if false_negatives is not None:
        false_negatives = false_negatives.clone()
        false_negatives[:, own].fill_diagonal_(False)
        logits = logits.masked_fill(false_negatives, -torch.inf)
    row_part = (logits.logsumexp(dim=1) - diagonal).sum()
    # Finite in every column: its diagonal is never left out on the rank that holds it.
    shift = world.max(logits.max(dim=0).values)
    normaliser = world.sum((logits - shift).exp().sum(dim=0)).log() + shift
    column_part = (normaliser[own] - diagonal).sum()
    return (row_part + column_part) / (2 * columns)


def known_pairs(groups: Tensor, world: World = SINGLE) -> Tensor:
    """Mark the pairs [b, B] of this rank's rows that share a group. ``groups``: the ids of its rows [b]."""
    return groups[:, None] == world.gather_constant(groups)[None, :]

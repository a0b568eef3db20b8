"""Pairs whose sums of large numbers nearly cancel in float32: computed from their vectors, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gare.objective.increments import FactorisedIncrements
from gare.scoring.increment.cell import PairCell

GATHERED_NUMBERS = 2**24
"""Most numbers of one gathered tensor: 64 MB in float32."""


def pairs_where(doubtful: Tensor) -> Tensor:
    """The pairs [P, 2] at which a matrix is true; none where it has no data, as in a dry run."""
    if type(doubtful) is not Tensor:
        return torch.empty(0, 2, dtype=torch.int64, device=doubtful.device)
    return doubtful.detach().nonzero()


def direct_logits(pairs_P2: Tensor, mean_VD: Tensor, text_BD: Tensor, keys_CLD: Tensor, context_P: Tensor) -> Tensor:
    """<vbar_j - t_i, keys> [P, L] of the pairs (text, video), each with the keys of its own context."""

    def block(part: slice) -> Tensor:
        text_of, video_of = pairs_P2[part].unbind(1)
        return torch.einsum("pd,pld->pl", mean_VD[video_of] - text_BD[text_of], keys_CLD[context_P[part]])

    return _in_blocks(block, len(pairs_P2), keys_CLD[:1])


def direct_cosines(
    pairs_P2: Tensor,
    cell: PairCell,
    text_BD: Tensor,
    base_VGD: Tensor,
    weights_VBG: Tensor,
    increments: FactorisedIncrements,
) -> Tensor:
    """Cosines [P] of the pairs (text, video) from their vectors, the increment and the pooled video formed."""
    basis = increments.basis_CKD

    def block(part: slice) -> Tensor:
        text_of, video_of = pairs_P2[part].unbind(1)
        coefficients = increments.coefficients_BVK[text_of, video_of]
        delta = torch.einsum("pk,pkd->pd", coefficients, basis[text_of if increments.per_text else video_of])
        base = torch.einsum("pg,pgd->pd", weights_VBG[video_of, text_of], base_VGD[video_of])
        return F.cosine_similarity(*cell.sides(text_BD[text_of], base, delta), dim=-1)

    return _in_blocks(block, len(pairs_P2), basis[:1])


def replaced(values: Tensor, pairs_P2: Tensor, with_P: Tensor) -> Tensor:
    """``values`` [N, M, ...] with those of some pairs replaced."""
    return values.index_put(tuple(pairs_P2.unbind(1)), with_P) if len(pairs_P2) else values


def _in_blocks(block: Callable[[slice], Tensor], pairs: int, gathered: Tensor) -> Tensor:
    """``block`` of all pairs; what it gathers, of the size of ``gathered`` a pair, is never there for all of them."""
    size = max(1, GATHERED_NUMBERS // gathered.numel())
    cuts = [slice(start, start + size) for start in range(0, pairs, size)]
    parts = [checkpoint(block, cut, use_reentrant=False, preserve_rng_state=False) for cut in cuts]
    return torch.cat(parts) if parts else gathered.new_empty(0)

"""Score pairs from precomputed factors, exactly, in blocks.

The last axis of all arrays in a block is the other side's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare.scoring.increment.cell import PairCell, cancels, norm
from gare.scoring.increment.factors import ContextFactors, PsiMaps, VideoFactors
from gare.scoring.increment.psi import NORM_EPS


@dataclass(frozen=True)
class Queries:
    """Texts [B, D] with their squared norms [B]."""

    text: Tensor
    square: Tensor

    @classmethod
    def of(cls, text_BD: Tensor) -> Queries:
        """Compute the squared norms of text vectors."""
        return cls(text_BD, text_BD.double().square().sum(-1).to(text_BD.dtype))


@dataclass(frozen=True)
class Pooled:
    """Pooling of each video by each text: weights [V, F', B], <t, p> and ||p||^2 [V, B], shared rows [V, 2, B]."""

    weights: Tensor
    text_dot: Tensor
    square: Tensor
    shared: Tensor


@dataclass(frozen=True)
class Mixed:
    """Increments as coefficients: D = own sum_l att_l P_l + shared pa + pb; att [C, L, N], others [C, N]."""

    attention: Tensor
    own: Tensor
    shared: Tensor
    square: Tensor


def pool(videos: VideoFactors, queries: Queries, cell: PairCell) -> Pooled:
    """Pool each video by each text; with model.video_base mean the softmax is over one vector."""
    base, mask = videos.bases(cell)
    dots = times(base, queries.text)
    weights = cell.pooling(dots, mask[..., None], dim=1)
    square = torch.bmm(videos.pool_gram, weights).square_().sum(dim=1)
    return Pooled(weights, (weights * dots).sum(dim=1), square, torch.bmm(videos.shared, weights))


def mix(contexts: ContextFactors, other_dots_CLN: Tensor, scale_CN: Tensor) -> Mixed:
    """Compute attention and coefficients of each pair from <other side, keys> [C, L, N] and LN1's scale [C, N]."""
    length = contexts.key_bias.shape[1]
    gap = other_dots_CLN.add_(contexts.own_logits[..., None])
    attention = gap.mul_(scale_CN[:, None]).add_(contexts.key_bias[..., None]).softmax(dim=1)
    rows = torch.bmm(contexts.mixing, attention)
    hidden_0, row_0, row_1 = rows[:, length].clone(), rows[:, 2 * length + 1].clone(), rows[:, 2 * length + 2].clone()
    squares = rows.square_()
    of_values = squares[:, :length].sum(dim=1)
    of_hidden, of_rows = squares[:, length + 1 : 2 * length + 1].sum(dim=1), squares[:, 2 * length + 3 :].sum(dim=1)
    corner_hidden, corner_b, corner_ab, corner_a = (c[:, None] for c in contexts.corner.unbind(1))
    first = (of_values + NORM_EPS).rsqrt()
    variance = (corner_hidden + hidden_0 * first).square() + first.square() * of_hidden
    shared = (variance + NORM_EPS).rsqrt()
    own = first * shared
    head = (corner_b + corner_ab * shared + own * row_0).square() + (corner_a * shared + own * row_1).square()
    return Mixed(attention, own, shared, head + own.square() * of_rows)


def times(rows_CLD: Tensor, others_ND: Tensor) -> Tensor:
    """Return inner products [C, L, N]."""
    return (rows_CLD.flatten(0, 1) @ others_ND.T).view(*rows_CLD.shape[:2], len(others_ND))


def frames_block(
    maps: PsiMaps,
    videos: VideoFactors,
    contexts: ContextFactors,
    cross: Tensor,
    queries: Queries,
    cell: PairCell,
    products: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return cosines [V, B] and distrust [V, B] for frames as context; ``cross`` [V, L, F'] is P times V'.

    ``products``: keys and increments, each times the texts [V, L, B], for callers that do not have the vectors.
    """
    dtype = queries.text.dtype
    if products is None:
        products = (
            times(contexts.keys.to(dtype), queries.text),
            times(contexts.increments.to(dtype), queries.text),
        )
    scale, doubtful = cell.query_scale(queries.text, videos.mean)
    mixed = mix(contexts, products[0], scale.T.contiguous())
    pooled = pool(videos, queries, cell)
    text_delta = mixed.own * (mixed.attention * products[1]).sum(dim=1) + mixed.shared * (queries.text @ maps.shared_a)
    text_delta += queries.text @ maps.shared_b
    video_delta = mixed.own * torch.bmm(cross, pooled.weights).mul_(mixed.attention).sum(dim=1)
    video_delta += mixed.shared * pooled.shared[:, 1] + pooled.shared[:, 0]
    return _cosines(cell, pooled, queries, text_delta, video_delta, mixed.square, doubtful.T)


def words_block(
    maps: PsiMaps, videos: VideoFactors, contexts: ContextFactors, queries: Queries, cell: PairCell
) -> tuple[Tensor, Tensor]:
    """Return cosines [V, B] and distrust [V, B] for words as context; allocates one [B, V, D] of the block."""
    dtype = queries.text.dtype
    scale, doubtful = cell.query_scale(queries.text, videos.mean)
    mixed = mix(contexts, times(contexts.keys.to(dtype), videos.mean), scale)
    pooled = pool(videos, queries, cell)
    rows = contexts.increments.to(dtype)
    text_rows = torch.bmm(queries.text[:, None], rows.mT)
    text_delta = mixed.own * torch.bmm(text_rows, mixed.attention)[:, 0]
    text_delta += mixed.shared * (queries.text @ maps.shared_a)[:, None] + (queries.text @ maps.shared_b)[:, None]
    delta_BVD = torch.bmm(mixed.attention.mT, rows)
    base, _ = videos.bases(cell)
    video_delta = torch.bmm(base, delta_BVD.permute(1, 2, 0)).mul_(pooled.weights).sum(dim=1)
    video_delta = mixed.own.T * video_delta + mixed.shared.T * pooled.shared[:, 1] + pooled.shared[:, 0]
    return _cosines(cell, pooled, queries, text_delta.T, video_delta, mixed.square.T, doubtful.T)


def plain_block(videos: VideoFactors, queries: Queries, cell: PairCell) -> tuple[Tensor, None]:
    """Return cosines [V, B] of the baseline without an increment."""
    pooled = pool(videos, queries, cell)
    return pooled.text_dot / (norm(pooled.square) * norm(queries.square)), None


def _cosines(
    cell: PairCell,
    pooled: Pooled,
    queries: Queries,
    text_delta: Tensor,
    video_delta: Tensor,
    delta_square: Tensor,
    doubtful: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return cosines [V, B] from <t, D>, <p, D> and ||D||^2 [V, B], and True where they are not to be trusted."""
    scores, square, parts = cell.cosines(
        text_square=queries.square,
        base_square=pooled.square,
        delta_square=delta_square,
        text_base=pooled.text_dot,
        text_delta=text_delta,
        base_delta=video_delta,
    )
    return scores, doubtful | cancels(square, parts)

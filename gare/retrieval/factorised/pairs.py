"""What is left per pair once the factors are there; all arrays of a block end in the other side's axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare.config.model import ModelConfig
from gare.model.increment import NORM_EPS
from gare.model.trust import NORM_TRUST, QUERY_TRUST
from gare.retrieval.factorised.factors import ContextFactors, PsiMaps, VideoFactors

COSINE_EPS = 1e-8
"""Least norm in a cosine, torch's own."""


@dataclass(frozen=True)
class Queries:
    """Texts with what the pair formulas need of each: [B, D], centred in float64 [B, D], squared norms [B]."""

    text: Tensor
    centred: Tensor
    square: Tensor

    @classmethod
    def of(cls, text_BD: Tensor) -> Queries:
        """Of text vectors."""
        return cls(text_BD, centred(text_BD), text_BD.double().square().sum(-1).to(text_BD.dtype))

    def take(self, rows: slice) -> Queries:
        """Some of them."""
        return Queries(self.text[rows], self.centred[rows], self.square[rows])


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


def centred(x: Tensor) -> Tensor:
    """Float64, without the mean over D."""
    x = x.double()
    return x - x.mean(dim=-1, keepdim=True)


def pool(videos: VideoFactors, queries: Queries, config: ModelConfig) -> Pooled:
    """Text-conditioned pooling; with model.video_base mean the softmax is over one vector."""
    base, mask = videos.base(config)
    dots = times(base, queries.text)
    logits = dots / config.pool_temperature
    weights = logits.masked_fill_(~mask[..., None], float("-inf")).softmax(dim=1)
    square = torch.bmm(videos.pool_gram, weights).square_().sum(dim=1)
    return Pooled(weights, (weights * dots).sum(dim=1), square, torch.bmm(videos.shared, weights))


def query_scale(videos: VideoFactors, queries: Queries, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """1 / sqrt(LN1's variance + eps) of each pair's query, [V, B], and where it is not to be trusted."""
    dim, dtype = queries.text.shape[1], queries.text.dtype
    square_B = queries.centred.square().sum(-1)
    if config.query == "text":
        variance = (square_B / dim).expand(len(videos.mean), -1)
        return (variance + NORM_EPS).rsqrt().to(dtype), torch.zeros_like(variance, dtype=torch.bool)
    mean = centred(videos.mean)
    parts = mean.square().sum(-1)[:, None] + square_B
    variance = torch.addmm(parts, mean, queries.centred.T, alpha=-2).clamp_(min=0).div_(dim).add_(NORM_EPS)
    return variance.rsqrt().to(dtype), variance < (QUERY_TRUST / dim) * parts


def mix(contexts: ContextFactors, other_dots_CLN: Tensor, scale_CN: Tensor) -> Mixed:
    """Attention and coefficients of each pair, from <other side, keys> [C, L, N] and LN1's scale [C, N]."""
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
    """Inner products [C, L, N]."""
    return (rows_CLD.flatten(0, 1) @ others_ND.T).view(*rows_CLD.shape[:2], len(others_ND))


def frames_block(
    maps: PsiMaps, videos: VideoFactors, contexts: ContextFactors, cross: Tensor, queries: Queries, config: ModelConfig
) -> tuple[Tensor, Tensor]:
    """Cosines [V, B] and distrust [V, B] where the context is the frames; ``cross`` [V, L, F'] is P times V'."""
    dtype = queries.text.dtype
    scale, doubtful = query_scale(videos, queries, config)
    mixed = mix(contexts, times(contexts.keys.to(dtype), queries.text), scale)
    pooled = pool(videos, queries, config)
    text_delta = mixed.attention * times(contexts.increments.to(dtype), queries.text)
    text_delta = mixed.own * text_delta.sum(dim=1) + mixed.shared * (queries.text @ maps.shared_a)
    text_delta += queries.text @ maps.shared_b
    video_delta = mixed.own * torch.bmm(cross, pooled.weights).mul_(mixed.attention).sum(dim=1)
    video_delta += mixed.shared * pooled.shared[:, 1] + pooled.shared[:, 0]
    return cosines(pooled, queries, text_delta, video_delta, mixed.square, doubtful, config)


def words_block(
    maps: PsiMaps, videos: VideoFactors, contexts: ContextFactors, queries: Queries, config: ModelConfig
) -> tuple[Tensor, Tensor]:
    """Cosines [V, B] and distrust [V, B] where the context is the words; makes one [B, V, D] of the block."""
    dtype = queries.text.dtype
    scale, doubtful = query_scale(videos, queries, config)
    mixed = mix(contexts, times(contexts.keys.to(dtype), videos.mean), scale.T)
    pooled = pool(videos, queries, config)
    rows = contexts.increments.to(dtype)
    text_rows = torch.bmm(queries.text[:, None], rows.mT)
    text_delta = mixed.own * torch.bmm(text_rows, mixed.attention)[:, 0]
    text_delta += mixed.shared * (queries.text @ maps.shared_a)[:, None] + (queries.text @ maps.shared_b)[:, None]
    delta_BVD = torch.bmm(mixed.attention.mT, rows)
    base, _ = videos.base(config)
    video_delta = torch.bmm(base, delta_BVD.permute(1, 2, 0)).mul_(pooled.weights).sum(dim=1)
    video_delta = mixed.own.T * video_delta + mixed.shared.T * pooled.shared[:, 1] + pooled.shared[:, 0]
    return cosines(pooled, queries, text_delta.T, video_delta, mixed.square.T, doubtful, config)


def plain_block(videos: VideoFactors, queries: Queries, config: ModelConfig) -> tuple[Tensor, None]:
    """Cosines [V, B] of the baseline without an increment."""
    pooled = pool(videos, queries, config)
    return pooled.text_dot / (norm(pooled.square) * norm(queries.square)), None


def cosines(
    pooled: Pooled,
    queries: Queries,
    text_delta: Tensor,
    video_delta: Tensor,
    delta_square: Tensor,
    doubtful: Tensor,
    config: ModelConfig,
) -> tuple[Tensor, Tensor]:
    """Cosines [V, B] from <t, D>, <p, D> and ||D||^2 [V, B], and where they are not to be trusted (NaN included)."""
    if config.corrected == "text":
        parts, dot, other = queries.square + delta_square, video_delta, norm(pooled.square)
        square = parts + 2 * text_delta
    else:
        parts, dot, other = pooled.square + delta_square, text_delta, norm(queries.square)
        square = parts + 2 * video_delta
    trusted = square >= NORM_TRUST * parts
    return (pooled.text_dot + dot) / (other * norm(square)), doubtful | ~trusted


def norm(square: Tensor) -> Tensor:
    """The norm of a squared norm, at least what torch's cosine takes."""
    return square.clamp(min=COSINE_EPS**2).sqrt()

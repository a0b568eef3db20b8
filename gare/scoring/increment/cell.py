"""Define the equation of a pair: s = cos(t + D, p) or cos(t, p + D), D = psi(q; context) (the method's section 2).

``base``, ``query`` and ``sides`` compute vectors for the dense form; ``bases``, ``query_scale`` and ``cosines`` compute
the same from inner products for the two algebraic forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gare.common.errors import ConfigError
from gare.config.experiment import ModelConfig
from gare.scoring.increment.psi import NORM_EPS

COSINE_EPS = 1e-8
"""Least norm in a cosine, the same as torch's."""

QUERY_TRUST = 1e-3
"""Least LN1 variance, relative to that of its two parts, at which a float32 pair is trusted.

The variance itself is exact (its one inner product runs in float64); the remaining error is that of the float32
numerator <vbar - t, Kc>, eps / sqrt(ratio): 4e-6 of a logit's size at 1e-3.
"""

NORM_TRUST = 3e-2
"""Least ||t + D||^2 (or ||p + D||^2), relative to ||t||^2 + ||D||^2, at which a float32 pair is trusted.

The three float32 terms have an error of about 2e-7 of the parts, so the norm one of 1e-7 / ratio: 3e-6 at 3e-2.
"""


@dataclass(frozen=True)
class PairCell:
    """The settings' choices for a pair, shared by all forms that compute it.

    Dense: ``text`` is [B, D], against all videos, or [1, P, D], text p against video p; the result's first two axes are
    [B, V] or [1, P].
    """

    config: ModelConfig

    @property
    def factorises(self) -> bool:
        """True if increments are sums over a few vectors per context; those of the residual queries are not."""
        return self.config.query in {"gap", "text"}

    def check_factorises(self) -> None:
        """Raise ConfigError for a query whose increments do not factorise."""
        if not self.factorises:
            query = self.config.query
            raise ConfigError(f"model.query {query} has no factorised increments; set train.increments to dense.")

    def words(self, words: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return words and their mask for context words; ConfigError if they are missing."""
        if words is None or mask is None:
            raise ConfigError("model.context is words: scoring needs words and word_mask.")
        return words, mask

    def base(self, text: Tensor, frames_VFD: Tensor, mask_VF: Tensor, mean_VD: Tensor) -> Tensor:
        """Return the scored video vector, [B, V, D]: pooled by the text, or the mean."""
        if self.config.video_base == "mean":
            return mean_VD.expand(len(text), -1, -1)
        rows = "bd" if text.ndim == 2 else "bvd"
        weights = self.pooling(torch.einsum(f"{rows},vfd->bvf", text, frames_VFD), mask_VF[None], dim=-1)
        return torch.einsum("bvf,vfd->bvd", weights, frames_VFD)

    def bases(self, frames_VFD: Tensor, mask_VF: Tensor, mean_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [V, G, D] and mask [V, G] that ``pooling`` sums into ``base``: frames, or the mean alone."""
        if self.config.video_base == "mean":
            return mean_VD[:, None], mask_VF.any(dim=1, keepdim=True)
        return frames_VFD, mask_VF

    def pooling(self, dots: Tensor, mask: Tensor, *, dim: int) -> Tensor:
        """Return weights over the vectors that a text pools, from their inner products with it."""
        return (dots / self.config.pool_temperature).masked_fill_(~mask, float("-inf")).softmax(dim)

    def query(self, text: Tensor, mean_VD: Tensor) -> Tensor:
        """Return psi's query [B, V, D]: eta (vbar - t), or t."""
        if self.config.query == "gap":
            return self.config.gap_sign * (mean_VD[None] - beside_videos(text))
        return beside_videos(text).expand(-1, len(mean_VD), -1)

    def query_parts(self) -> tuple[float, float]:
        """Return ``query`` as a sum: the factors of vbar and t."""
        sign = float(self.config.gap_sign)
        return (sign, -sign) if self.config.query == "gap" else (0.0, 1.0)

    def query_scale(self, text_BD: Tensor, mean_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 / sqrt(LN1's variance + eps) of each pair's query [B, V], and True where the query nearly cancels.

        The variance of a difference comes from three products, in float64 because it may be a small part of them.
        """
        text, mean, dim = centred(text_BD.double()), centred(mean_VD.double()), text_BD.shape[-1]
        square = text.square().sum(-1)[:, None]
        if self.config.query != "gap":
            scale = (square / dim + NORM_EPS).rsqrt().to(text_BD.dtype).expand(-1, len(mean_VD))
            return scale, torch.zeros_like(scale, dtype=torch.bool)
        parts = square + mean.square().sum(-1)
        variance = (parts - 2 * text @ mean.T).clamp(min=0)
        return (variance / dim + NORM_EPS).rsqrt().to(text_BD.dtype), variance < QUERY_TRUST * parts

    def sides(self, text: Tensor, base: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two vectors of the cosine, in the shape of ``delta``."""
        return corrected_sides(text, base, delta, self.config.corrected)

    def cosines(
        self,
        *,
        text_square: Tensor,
        base_square: Tensor,
        delta_square: Tensor,
        text_base: Tensor,
        text_delta: Tensor,
        base_delta: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cosines of ``sides`` from inner products, and the corrected side's square and its parts."""
        if self.config.corrected == "text":
            parts, along, dot = text_square + delta_square, text_delta, text_base + base_delta
            square = parts + 2 * along
            scores = dot / (norm(square) * norm(base_square))
        else:
            parts, along, dot = base_square + delta_square, base_delta, text_base + text_delta
            square = parts + 2 * along
            scores = dot / (norm(text_square) * norm(square))
        return scores, square, parts


def cancels(square: Tensor, parts: Tensor) -> Tensor:
    """Mark pairs whose corrected side nearly vanishes, or is NaN, so that its float32 cosine is doubtful."""
    return ~(square >= NORM_TRUST * parts)


def beside_videos(text: Tensor) -> Tensor:
    """Return texts [B, D] as [B, 1, D], and matched texts [1, P, D] unchanged."""
    return text[:, None] if text.ndim == 2 else text


def corrected_sides(
    text: Tensor, video: Tensor, delta: Tensor, corrected: Literal["text", "video"]
) -> tuple[Tensor, Tensor]:
    """Return the text's and the video's vector, one of them with the increment added."""
    return (text + delta, video) if corrected == "text" else (text, video + delta)


def norm(square: Tensor) -> Tensor:
    """Return the norm from its square, at least the minimum of torch's cosine."""
    return square.clamp(min=COSINE_EPS**2).sqrt()


def centred(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis."""
    return x - x.mean(dim=-1, keepdim=True)

"""The paper's head with a vector for every pair: pooling, increment and cosine, written as in the equations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from gare.common.errors import ConfigError
from gare.config.experiment import ModelConfig
from gare.objective.increments import DenseIncrements
from gare.scoring.factors import Texts, Videos
from gare.scoring.head import PairDropout, PairHead, PairScores, masked_mean
from gare.scoring.increment.cell import PairCell, beside_videos
from gare.scoring.increment.psi import INIT_STD, Increment

GATHERED_NUMBERS = 2**21
"""Most numbers of one gathered tensor: 8 MB in float32."""


class DenseHead(PairHead):
    """A head that computes pooling, increment and cosine for every text-video pair.

    ``psi`` is None with ``model.increment`` none. ``radius`` (frame similarities to the logarithm of a length) exists
    only with ``model.query`` residual_scaled.
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__(dim, config)
        self.cell = PairCell(config)
        self.psi = Increment(dim) if config.increment == "cross_attention" else None
        self.radius = Radius(config.max_frames) if config.query == "residual_scaled" else None

    @override
    def score(
        self,
        text: Tensor,
        frames_VFD: Tensor,
        frame_mask_VF: Tensor,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        dropout: PairDropout | None = None,
    ) -> PairScores:
        """Score texts [B, D] with all videos, or texts [1, P, D] (and words [P, W, D]) each with its own video."""
        cell, mean_VD = self.cell, masked_mean(frames_VFD, frame_mask_VF)
        base_BVD = cell.base(text, frames_VFD, frame_mask_VF, mean_VD)
        if self.psi is None:
            return PairScores(F.cosine_similarity(beside_videos(text), base_BVD, dim=-1), None, base_BVD)
        query_BVD = cell.query(text, mean_VD)
        factors = dropout.mask(query_BVD) if dropout is not None else None
        per_text = self.config.context == "words"
        context, mask = cell.words(words, word_mask) if per_text else (frames_VFD, frame_mask_VF)
        delta_BVD = self.psi(query_BVD, context, mask, per_text=per_text and text.ndim == 2, dropout=factors)
        if self.config.query.startswith("residual"):
            delta_BVD = mean_VD[None] - delta_BVD
        if self.radius is not None:
            delta_BVD = self.radius(text, frames_VFD, frame_mask_VF)[..., None] * F.normalize(delta_BVD, dim=-1)
        scores = F.cosine_similarity(*cell.sides(beside_videos(text), base_BVD, delta_BVD), dim=-1)
        return PairScores(scores, DenseIncrements(delta_BVD), base_BVD)


class Radius(nn.Module):
    """The length R_ij = exp(linear(cosines of t_i with the frames v_jf, padded ones 0)) of residual_scaled.

    The linear layer has a weight for each of ``model.max_frames`` positions, so that the same weights serve every
    number of frames: positions after the clip's end count as padded. Cosines, as in the stochastic text radius that
    this form is taken from, bound the exponential for vectors of any scale.
    """

    def __init__(self, max_frames: int) -> None:
        super().__init__()
        self.linear = nn.Linear(max_frames, 1)
        nn.init.normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, text: Tensor, frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
        """Return lengths [B, V] for texts ([B, D], or matched [1, V, D]) and frames [V, F, D], F <= ``max_frames``."""
        count = frames_VFD.shape[1]
        if count > self.linear.in_features:
            raise ConfigError(f"{count} frames are more than model.max_frames, {self.linear.in_features}.")
        rows = "bd" if text.ndim == 2 else "bvd"
        cosines = torch.einsum(f"{rows},vfd->bvf", F.normalize(text, dim=-1), F.normalize(frames_VFD, dim=-1))
        kept_BVF = cosines.masked_fill(~mask_VF[None], 0.0)
        return (kept_BVF @ self.linear.weight[0, :count] + self.linear.bias).exp()


def score_listed(head: DenseHead, texts: Texts, videos: Videos, pairs_P2: Tensor) -> Tensor:
    """Return cosines [P] of the pairs (text, video) listed in ``pairs_P2``, by the same equations.

    Memory: 8 MB per gathered tensor, whatever P is.
    """
    longest = max(x.shape[1] for x in (videos.frames, texts.words) if x is not None)
    block = max(1, GATHERED_NUMBERS // (longest * texts.text.shape[1]))
    parts = [texts.text.new_zeros(0)]
    for start in range(0, len(pairs_P2), block):
        text_of, video_of = pairs_P2[start : start + block].unbind(1)
        own, its = texts[text_of], videos[video_of]
        frames = its.frames.to(own.text.dtype)
        parts.append(head.score(own.text[None], frames, its.frame_mask, own.words, own.word_mask).scores[0])
    return torch.cat(parts)

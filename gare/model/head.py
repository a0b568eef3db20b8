"""The pair head: from text and frame vectors to scores (the method's section 2), always in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gare.common.errors import ConfigError
from gare.config.model import ModelConfig
from gare.model.increment import INIT_STD, Increment


@dataclass(frozen=True)
class PairScores:
    """Cosines [B, V]; increments [B, V, D] and pooled videos [B, V, D] where asked for."""

    scores: Tensor
    delta: Tensor | None = None
    pooled: Tensor | None = None


@dataclass(frozen=True)
class PairDropout:
    """psi's dropout, drawn from (seed, step, global text index), so that the number of ranks does not matter."""

    rate: float
    seed: int
    step: int
    first_text: int = 0

    def mask(self, like: Tensor) -> Tensor | None:
        """Factors of the shape [B, V, D] of ``like``, 0 or 1 / (1 - rate), or None when nothing is dropped."""
        if self.rate == 0:
            return None
        texts, videos, dim = like.shape
        generator = torch.Generator(device=like.device)
        rows = []
        for text in range(self.first_text, self.first_text + texts):
            generator.manual_seed(_mix(self.seed, self.step, text))
            rows.append(torch.rand(videos, dim, generator=generator, device=like.device) >= self.rate)
        return torch.stack(rows).to(like.dtype) / (1 - self.rate)


class PairHead(nn.Module):
    """Pooling, increment and cosine for every text-video pair.

    ``psi`` is None with ``model.increment`` none; ``radius`` (frame similarities to the logarithm of a length) is
    there with ``model.query`` residual_scaled only.
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.psi = Increment(dim) if config.increment == "cross_attention" else None
        self.radius = Radius(config.max_frames) if config.query == "residual_scaled" else None

    def forward(
        self,
        text_BD: Tensor,
        frames_VFD: Tensor,
        frame_mask_VF: Tensor,
        words_BWD: Tensor | None = None,
        word_mask_BW: Tensor | None = None,
        dropout: PairDropout | None = None,
    ) -> PairScores:
        """Score every text [B, D] against every video [V, F, D]; every mask row must have a valid position.

        Words [B, W, D] and their mask are used with ``model.context`` words, and ConfigError is raised without them.
        ``delta`` of the result is what was added, for every ``model.query``; None without an increment.
        """
        config = self.config
        with torch.autocast(device_type=text_BD.device.type, enabled=False):
            text_BD, frames_VFD = _float(text_BD), _float(frames_VFD)
            mean_VD = masked_mean(frames_VFD, frame_mask_VF)
            if config.video_base == "pooled":
                base_BVD = text_pooled(text_BD, frames_VFD, frame_mask_VF, config.pool_temperature)
            else:
                base_BVD = mean_VD.expand(len(text_BD), -1, -1)
            if self.psi is None:
                return PairScores(F.cosine_similarity(text_BD[:, None], base_BVD, dim=-1), None, base_BVD)
            if config.query == "gap":
                query_BVD = config.gap_sign * (mean_VD[None] - text_BD[:, None])
            else:
                query_BVD = text_BD[:, None].expand(-1, len(frames_VFD), -1)
            factors = dropout.mask(query_BVD) if dropout is not None else None
            if config.context == "words":
                if words_BWD is None or word_mask_BW is None:
                    raise ConfigError("model.context is words: scoring needs words and word_mask.")
                context, mask, per_text = _float(words_BWD), word_mask_BW, True
            else:
                context, mask, per_text = frames_VFD, frame_mask_VF, False
            delta_BVD = self.psi(query_BVD, context, mask, per_text=per_text, dropout=factors)
            if config.query.startswith("residual"):
                delta_BVD = mean_VD[None] - delta_BVD
            if self.radius is not None:
                delta_BVD = self.radius(text_BD, frames_VFD, frame_mask_VF)[..., None] * F.normalize(delta_BVD, dim=-1)
            if config.corrected == "text":
                scores = F.cosine_similarity(text_BD[:, None] + delta_BVD, base_BVD, dim=-1)
            else:
                scores = F.cosine_similarity(text_BD[:, None], base_BVD + delta_BVD, dim=-1)
            return PairScores(scores, delta_BVD, base_BVD)


class Radius(nn.Module):
    """The length R_ij = exp(linear(cosines of t_i with the frames v_jf, padded ones 0)) of residual_scaled.

    The linear layer has a weight for each of ``model.max_frames`` places, so that the same weights serve every
    number of frames: places beyond a clip are padded ones. Cosines, as for the stochastic text radius this form is
    taken from, keep the exponential within bounds whatever the scale of the vectors.
    """

    def __init__(self, max_frames: int) -> None:
        super().__init__()
        self.linear = nn.Linear(max_frames, 1)
        nn.init.normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, text_BD: Tensor, frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
        """Lengths [B, V] of texts [B, D] and frames [V, F, D] with their mask [V, F]; F at most ``max_frames``."""
        count = frames_VFD.shape[1]
        if count > self.linear.in_features:
            raise ConfigError(f"{count} frames are more than model.max_frames, {self.linear.in_features}.")
        cosines_BVF = torch.einsum("bd,vfd->bvf", F.normalize(text_BD, dim=-1), F.normalize(frames_VFD, dim=-1))
        kept_BVF = cosines_BVF.masked_fill(~mask_VF[None], 0.0)
        return (kept_BVF @ self.linear.weight[0, :count] + self.linear.bias).exp()


def masked_mean(frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
    """Mean over valid frames, [V, D]."""
    weights = mask_VF.to(frames_VFD.dtype)
    return (frames_VFD * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def text_pooled(text_BD: Tensor, frames_VFD: Tensor, mask_VF: Tensor, temperature: float) -> Tensor:
    """Text-conditioned pooling [B, V, D]: frames weighted by softmax(<t_i, v_jf> / temperature) over valid ones."""
    similarity = torch.einsum("bd,vfd->bvf", text_BD, frames_VFD) / temperature
    weights = similarity.masked_fill(~mask_VF[None], float("-inf")).softmax(-1)
    return torch.einsum("bvf,vfd->bvd", weights, frames_VFD)


def _float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _mix(*values: int) -> int:
    """One 63-bit seed of several integers (splitmix64 steps)."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1

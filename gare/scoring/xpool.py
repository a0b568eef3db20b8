"""X-Pool's head (Gorti et al. 2022, arXiv 2203.15086): the text attends over the frames, and pools them.

    q = Wq LN1(t),  K = LN1(V) Wk,  U = LN1(V) Wv                    t the text, V [F, D] the video's frames
    r = LN2(Wo concat_h softmax(q_h K_h' / sqrt(D / H)) U_h)         H attention heads
    z = LN3(r + dropout(W r));   s = cos(t, z)

All linear layers have biases and start as the identity, as released.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from gare.common.errors import ConfigError
from gare.config.experiment import ModelConfig
from gare.scoring.head import PairDropout, PairHead, PairScores


class XPoolHead(PairHead):
    """Text-conditioned pooling by cross-attention, and the cosine of text and pooled video."""

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__(dim, config)
        if dim % config.attention_heads:
            raise ConfigError(
                f"model.attention_heads is {config.attention_heads}, which does not divide the embeddings' width {dim}."
            )
        self.q_proj, self.k_proj, self.v_proj, self.out_proj, self.linear_proj = (nn.Linear(dim, dim) for _ in range(5))
        self.layer_norm1, self.layer_norm2, self.layer_norm3 = (nn.LayerNorm(dim) for _ in range(3))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.eye_(module.weight)
                nn.init.zeros_(module.bias)

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
        pooled_BVD = self.pooled(text, frames_VFD, frame_mask_VF, dropout)
        return PairScores(F.cosine_similarity(text[:, None], pooled_BVD, dim=-1), None, pooled_BVD)

    def pooled(
        self, text_BD: Tensor, frames_VFD: Tensor, mask_VF: Tensor, dropout: PairDropout | None = None
    ) -> Tensor:
        """Return each text's pooled vector of each video, [B, V, D]."""
        heads, width = self.config.attention_heads, text_BD.shape[-1] // self.config.attention_heads
        frames = self.layer_norm1(frames_VFD.masked_fill(~mask_VF[..., None], 0))
        query = self.q_proj(self.layer_norm1(text_BD)).unflatten(-1, (heads, width))
        keys, values = (p(frames).unflatten(-1, (heads, width)) for p in (self.k_proj, self.v_proj))
        # out_proj commutes with the weighted sum over frames, so it runs once per frame instead of once per pair.
        values_VHFD = torch.einsum("vfhe,dhe->vhfd", values, self.out_proj.weight.view(-1, heads, width))
        logits = torch.einsum("bhe,vfhe->bvhf", query, keys) / math.sqrt(width)
        weights = logits.masked_fill(~mask_VF[None, :, None], float("-inf")).softmax(-1)
        attended = self.layer_norm2(torch.einsum("bvhf,vhfd->bvd", weights, values_VHFD) + self.out_proj.bias)
        hidden = self.linear_proj(attended)
        dropped = None if dropout is None else dropout.mask(hidden)
        pooled: Tensor = self.layer_norm3(attended + (hidden if dropped is None else hidden * dropped))
        return pooled

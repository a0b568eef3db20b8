"""psi: the single cross-attention layer that gives a pair its increment (the method's section 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02
NORM_EPS = 1e-5


class Increment(nn.Module):
    """psi, with keys and values projected once per context position, never per pair.

    <Wq q + bq, k> is <q, k Wq> + <bq, k>, and out_proj commutes with the attention's weighted sum because the weights
    sum to 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.linear1 = nn.Linear(dim, dim)
        self.layer_norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.layer_norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.layer_norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mean_proj = nn.Linear(dim, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(
        self, query_BVD: Tensor, context: Tensor, context_mask: Tensor, *, per_text: bool, dropout: Tensor | None
    ) -> Tensor:
        """Return increments [B, V, D].

        ``query_BVD``: the pair's query before LayerNorm. ``context`` [V, F, D] (frames) or, with ``per_text``, [B, W,
        D] (words), with its mask (every row has a valid position). ``dropout`` [B, V, D]: 0 or 1 / (1 - rate), None for
        none.
        """
        owner, position = ("b", "w") if per_text else ("v", "w")
        normed = self.layer_norm1(context)
        keys = self.k_proj(normed)
        values = F.linear(self.v_proj(normed), self.out_proj.weight)
        keys_q, keys_b = keys @ self.q_proj.weight, keys @ self.q_proj.bias
        logits = torch.einsum(f"bvd,{owner}{position}d->bv{position}", self.layer_norm1(query_BVD), keys_q)
        bias = keys_b[:, None, :] if per_text else keys_b[None, :, :]
        mask = context_mask[:, None, :] if per_text else context_mask[None, :, :]
        logits = ((logits + bias) / math.sqrt(context.shape[-1])).masked_fill(~mask, float("-inf"))
        attended = torch.einsum(f"bv{position},{owner}{position}d->bvd", logits.softmax(-1), values)
        y = self.layer_norm2(attended + self.out_proj.bias)
        hidden = self.linear1(y)
        if dropout is not None:
            hidden = hidden * dropout
        increments: Tensor = self.mean_proj(self.layer_norm3(y + hidden))
        return increments

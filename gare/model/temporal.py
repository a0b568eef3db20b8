"""The temporal transformer over a clip's frames (the method's section 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64
NORM_EPS = 1e-12


def quick_gelu(x: Tensor) -> Tensor:
    """Compute CLIP's activation: x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class TemporalBlock(nn.Module):
    """A pre-norm transformer block; attention masks padded keys."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = max(1, dim // HEAD_WIDTH)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x_VFD: Tensor, mask_VF: Tensor) -> Tensor:
        """Map [V, F, D] with its mask [V, F] to [V, F, D]."""
        V, frames, dim = x_VFD.shape
        y = self.norm1(x_VFD)
        shape = (V, frames, self.heads, dim // self.heads)
        q, k, v = (p(y).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_VF[:, None, None, :])
        x_VFD = x_VFD + self.out_proj(mixed.transpose(1, 2).reshape(V, frames, dim))
        out: Tensor = x_VFD + self.fc2(quick_gelu(self.fc1(self.norm2(x_VFD))))
        return out


class PlainFrames(nn.Module):
    """A replacement for the temporal transformer that leaves frames as they are."""

    def forward(self, frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
        """Return the frame embeddings [V, F, D]; padded rows are zeros."""
        return frames_VFD * mask_VF[..., None]

    def start_from_text_tower(self, _: nn.Module) -> bool:
        """Do nothing: there are no weights to copy."""
        return True


class TemporalTransformer(nn.Module):
    """Learned frame positions, blocks, and a residual from before the positions."""

    def __init__(self, dim: int, layers: int, max_frames: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(max_frames, dim).normal_(std=0.01))
        self.blocks = nn.ModuleList(TemporalBlock(dim) for _ in range(layers))

    def forward(self, frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
        """Map frame embeddings [V, F, D] in order, with mask [V, F], to [V, F, D]; padded rows are zeros."""
        x = frames_VFD + self.positions[: frames_VFD.shape[1]]
        for block in self.blocks:
            x = block(x, mask_VF)
        return (x + frames_VFD) * mask_VF[..., None]

    @torch.no_grad()
    def start_from_text_tower(self, text_model: nn.Module) -> bool:
        """Copy CLIP's first text blocks and positions; do nothing and return False if widths or head counts differ."""
        layers = list(text_model.encoder.layers)  # type: ignore[union-attr, arg-type]
        table: Tensor = text_model.embeddings.position_embedding.weight  # type: ignore[union-attr, assignment]
        if table.shape[1] != self.positions.shape[1] or len(layers) < len(self.blocks):
            return False
        if layers and layers[0].self_attn.num_heads != table.shape[1] // HEAD_WIDTH:
            return False
        if layers and layers[0].mlp.fc1.out_features != 4 * table.shape[1]:
            return False
        rows = min(len(table), len(self.positions))
        self.positions[:rows] = table[:rows]
        names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        names |= {p: f"self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "out_proj")}
        for block, layer in zip(self.blocks, layers, strict=False):
            for ours, theirs in names.items():
                block.get_submodule(ours).load_state_dict(layer.get_submodule(theirs).state_dict())
        return True

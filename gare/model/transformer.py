"""The two towers in plain torch: transformers' names, order of weights and operations, without importing transformers.

Importing transformers' CLIP takes several seconds, in which it loads compilers and solvers that no tower uses.
Shapes: B texts, N images, W words, P patches, C the tower's width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gare.model.temporal import quick_gelu

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
"""The activations of published models; transformers knows more, which are looked up there."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation of a name of transformers. Raises KeyError if it is unknown."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    from transformers.activations import ACT2FN

    return ACT2FN[name]  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention with several heads among the rows of one text or image."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """Map [B, W, C] to [B, W, C]; ``causal``: a row sees itself and those before it only."""
        width = x.shape[-1] // self.num_heads
        shape = (*x.shape[:-1], self.num_heads, width)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (part.view(shape).transpose(1, 2) for part in (q, k, v))
        dropout, causal = self.dropout if self.training else 0.0, causal and x.shape[1] > 1
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=width**-0.5, is_causal=causal)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).contiguous().reshape(x.shape))
        return out


class Mlp(nn.Module):
    """The two linear maps of a block."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.activation_fn = activation(config.hidden_act)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        out: Tensor = self.fc2(self.activation_fn(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm block. The order of its parts is that of the weights, in which SigLIP's norms come first."""

    self_attn: Attention
    layer_norm1: nn.LayerNorm
    mlp: Mlp
    layer_norm2: nn.LayerNorm

    def __init__(self, config: Any, *, norms_first: bool) -> None:
        super().__init__()
        for number, name, part in ((1, "self_attn", Attention), (2, "mlp", Mlp)):
            made = {name: part(config), f"layer_norm{number}": _norm(config)}
            for key in reversed(made) if norms_first else made:
                self.add_module(key, made[key])

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """Map [B, W, C] to [B, W, C]."""
        x = x + self.self_attn(self.layer_norm1(x), causal=causal)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


def _norm(config: Any) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Encoder(nn.Module):
    """The blocks of a tower; with ``gradient_checkpointing``, a training step computes each again going backward."""

    def __init__(self, config: Any, *, norms_first: bool) -> None:
        super().__init__()
        blocks = (Block(config, norms_first=norms_first) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(blocks)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        """Map [B, W, C] to [B, W, C]."""
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, causal=causal, use_reentrant=False)
            else:
                x = layer(x, causal=causal)
        return x


class TextEmbeddings(nn.Module):
    """Tables of tokens and positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids [B, W] to [B, W, C]."""
        out: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return out


class ImageEmbeddings(nn.Module):
    """Patches, after a class vector if the family has one, and positions."""

    def __init__(self, config: Any, *, class_vector: bool) -> None:
        super().__init__()
        if class_vector:
            self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        side, channels = config.patch_size, config.num_channels
        self.patch_embedding = nn.Conv2d(channels, config.hidden_size, side, stride=side, bias=not class_vector)
        patches = (config.image_size // side) ** 2
        self.position_embedding = nn.Embedding(patches + class_vector, config.hidden_size)
        self.image_size, self.class_vector = config.image_size, class_vector

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels [N, 3, H, H] to [N, P, C]. Raises ValueError for another size than the config's."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"The image tower takes {self.image_size} pixels, not {tuple(pixels.shape[-2:])}.")
        patches: Tensor = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        if self.class_vector:
            patches = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        return patches + self.position_embedding.weight


class TextTower(nn.Module):
    """CLIP's text tower, or with ``head`` (its width) SigLIP's, which is not causal and has its head inside."""

    def __init__(self, config: Any, head: int | None = None) -> None:
        super().__init__()
        self.causal = head is None
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, norms_first=not self.causal)
        self.final_layer_norm = _norm(config)
        if head is not None:
            self.head = nn.Linear(config.hidden_size, head)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map token ids [B, W] to the hidden states of the words [B, W, C], without the head."""
        out: Tensor = self.final_layer_norm(self.encoder(self.embeddings(input_ids), causal=self.causal))
        return out


class ClipImageTower(nn.Module):
    """CLIP's image tower, which reads an image at the class vector."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = ImageEmbeddings(config, class_vector=True)
        self.pre_layrnorm = _norm(config)
        self.encoder = Encoder(config, norms_first=False)
        self.post_layernorm = _norm(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map normalised pixels [N, 3, H, H] to [N, C]."""
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)), causal=False)
        out: Tensor = self.post_layernorm(hidden[:, 0, :])
        return out


class SiglipImageTower(nn.Module):
    """SigLIP's image tower, which pools the patches by attention."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = ImageEmbeddings(config, class_vector=False)
        self.encoder = Encoder(config, norms_first=True)
        self.post_layernorm = _norm(config)
        self.head = PoolingHead(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map normalised pixels [N, 3, H, H] to [N, C]."""
        out: Tensor = self.head(self.post_layernorm(self.encoder(self.embeddings(pixel_values), causal=False)))
        return out


class PoolingHead(nn.Module):
    """A learned query that attends to the patches."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.attention = nn.MultiheadAttention(config.hidden_size, config.num_attention_heads, batch_first=True)
        self.layernorm = _norm(config)
        self.mlp = Mlp(config)

    def forward(self, patches: Tensor) -> Tensor:
        """Map [N, P, C] to [N, C]."""
        pooled = self.attention(self.probe.repeat(len(patches), 1, 1), patches, patches)[0]
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]  # type: ignore[no-any-return]


class Clip(nn.Module):
    """Both towers of CLIP or MetaCLIP 2, each with its projection, and the logit scale."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        text, vision = config.text_config, config.vision_config
        self.config = config
        self.text_model = TextTower(text)
        self.vision_model = ClipImageTower(vision)
        self.visual_projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))


class Siglip(nn.Module):
    """Both towers of SigLIP, the logit scale and a bias of all logits."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTower(config.text_config, config.text_config.projection_size)
        self.vision_model = SiglipImageTower(config.vision_config)
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))

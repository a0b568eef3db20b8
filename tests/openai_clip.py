"""A small CLIP with the parameter tree of OpenAI's, written plainly, as a user's file would hold it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

WIDTH, PATCH, SIDE, WORDS, VOCABULARY, DIM = 64, 8, 16, 12, 40, 64


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1 = nn.LayerNorm(width)
        parts = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width) for _ in range(layers)))

    def forward(self, x, mask):
        x = x.permute(1, 0, 2)
        for block in self.resblocks:
            x = block(x, mask)
        return x.permute(1, 0, 2)


class Visual(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, layers)
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, DIM) / 8)

    def forward(self, x):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x), None)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    def __init__(self, vision_layers=2, text_layers=1):
        super().__init__()
        self.visual = Visual(vision_layers)
        self.transformer = Transformer(WIDTH, text_layers)
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(WORDS, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, DIM) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        for name, value in (("input_resolution", SIDE), ("context_length", WORDS), ("vocab_size", VOCABULARY)):
            self.register_buffer(name, torch.tensor(value))
        for parameter in self.parameters():
            if parameter.ndim:
                nn.init.normal_(parameter, std=0.2)

    def text(self, ids):
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.text_projection

    def forward(self, pixels, ids):
        return self.visual(pixels), self.text(ids)


def inputs(seed=0):
    """Pixels [3, 3, 16, 16] and token ids [4, 12], each text ending with the largest id."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY - 2, (4, WORDS), generator=g)
    for row, length in enumerate((3, 12, 5, 8)):
        ids[row, 0], ids[row, length - 1], ids[row, length:] = VOCABULARY - 2, VOCABULARY - 1, 0
    return torch.randn(3, 3, SIDE, SIDE, generator=g), ids


def released(clip, *, temporal_layers=2, frames=7, psi=True):
    """The state dict that the authors' code would save around this CLIP: psi twice, dead layers."""
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=g) / 8  # noqa: E731
    state = {f"clip.{k}": v for k, v in clip.state_dict().items() if v.is_floating_point()}
    blocks = Transformer(DIM, temporal_layers).state_dict()
    state |= {f"transformerClip.{name}": draw(*tensor.shape) for name, tensor in blocks.items()}
    state["frame_position_embeddings.weight"] = draw(frames, DIM)
    state |= {"weight_fc.0.weight": draw(8, 4), "weight_fc.0.bias": draw(8)}
    if not psi:
        return state
    linear = [f"layers.0.cross_attn.{p}_proj" for p in ("q", "k", "v", "out")]
    linear += ["layers.0.linear1", "layers.0.linear2", "mean_proj", "log_std_proj"]
    inner = {f"{name}.weight": draw(DIM, DIM) for name in linear} | {f"{name}.bias": draw(DIM) for name in linear}
    for n in (1, 2, 3):
        inner |= {f"layers.0.layer_norm{n}.weight": 1 + draw(DIM), f"layers.0.layer_norm{n}.bias": draw(DIM)}
    inner |= {"layers.0.mlp.0.weight": draw(4 * DIM, DIM), "layers.0.mlp.0.bias": draw(4 * DIM)}
    return state | {f"{prefix}{k}": v for prefix in ("psi.", "agent.psi.") for k, v in inner.items()}

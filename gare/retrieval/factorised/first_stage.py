"""Two inner products per pair in place of the increment: D0, psi's answer to uniform attention."""

from __future__ import annotations

import torch
from torch import Tensor

from gare.config.model import ModelConfig
from gare.model.increment import Increment
from gare.retrieval.factorised.pairs import norm


def uniform_increment(psi: Increment, context_CLD: Tensor, mask_CL: Tensor) -> Tensor:
    """D0 [C, D]: the increment at uniform attention over each context's valid positions, whatever the query."""
    keep = mask_CL[..., None]
    values = psi.v_proj(psi.layer_norm1(context_CLD.masked_fill(~keep, 0))) * keep.to(context_CLD.dtype)
    mean = values.sum(dim=1) / mask_CL.sum(dim=1, keepdim=True).to(values.dtype)
    y = psi.layer_norm2(psi.out_proj(mean))
    increments: Tensor = psi.mean_proj(psi.layer_norm3(y + psi.linear1(y)))
    return increments


def first_stage_scores(
    text_BD: Tensor, mean_VD: Tensor, delta: Tensor, of_videos: Tensor | None, config: ModelConfig
) -> Tensor:
    """Cosines [B, V] with D0 in place of the increment and vbar in place of the pooled video.

    ``delta`` is D0 of the videos [V, D] (then ``of_videos`` is <D0, vbar> [V]) or of the texts [B, D] (then None).
    """
    dot = text_BD @ mean_VD.T
    text_square, mean_square = text_BD.square().sum(-1)[:, None], mean_VD.square().sum(-1)
    square = delta.square().sum(-1)
    if of_videos is None:
        video_delta, text_delta, square = delta @ mean_VD.T, (text_BD * delta).sum(-1)[:, None], square[:, None]
    else:
        video_delta, text_delta = of_videos, text_BD @ delta.T
    if config.corrected == "text":
        corrected, other, extra = text_square + 2 * text_delta + square, mean_square, video_delta
    else:
        corrected, other, extra = mean_square + 2 * video_delta + square, text_square, text_delta
    return (dot + extra) / (norm(corrected) * norm(torch.as_tensor(other)))

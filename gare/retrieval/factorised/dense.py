"""The plain equations for single pairs, through the model's own psi: the same arithmetic as its head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gare.model.head import PairHead, masked_mean

GATHERED_NUMBERS = 2**21
"""Most numbers of one gathered tensor: 8 MB in float32."""


def score_listed(
    head: PairHead,
    text_BD: Tensor,
    frames_VFD: Tensor,
    frame_mask_VF: Tensor,
    words_BWD: Tensor | None,
    word_mask_BW: Tensor | None,
    pairs_P2: Tensor,
) -> Tensor:
    """Cosines [P] of the pairs (text, video) listed in ``pairs_P2``, in blocks of bounded memory.

    Memory: 8 MB a gathered tensor, whatever P is.
    """
    length = frames_VFD.shape[1] if words_BWD is None else max(frames_VFD.shape[1], words_BWD.shape[1])
    block = max(1, GATHERED_NUMBERS // (length * text_BD.shape[1]))
    parts = []
    for start in range(0, len(pairs_P2), block):
        text_of, video_of = pairs_P2[start : start + block].unbind(1)
        words = None if words_BWD is None else words_BWD[text_of].to(text_BD.dtype)
        mask = None if word_mask_BW is None else word_mask_BW[text_of]
        frames = frames_VFD[video_of].to(text_BD.dtype)
        parts.append(score_matched(head, text_BD[text_of], frames, frame_mask_VF[video_of], words, mask))
    return torch.cat(parts) if parts else text_BD.new_zeros(0)


def score_matched(
    head: PairHead,
    text_PD: Tensor,
    frames_PFD: Tensor,
    frame_mask_PF: Tensor,
    words_PWD: Tensor | None,
    word_mask_PW: Tensor | None,
) -> Tensor:
    """Cosines [P] of text p with video p (the method's section 2); the increment by ``head.psi`` itself."""
    config = head.config
    mean_PD = masked_mean(frames_PFD, frame_mask_PF)
    base_PD = mean_PD
    if config.video_base == "pooled":
        similarity = torch.einsum("pd,pfd->pf", text_PD, frames_PFD) / config.pool_temperature
        weights = similarity.masked_fill(~frame_mask_PF, float("-inf")).softmax(-1)
        base_PD = torch.einsum("pf,pfd->pd", weights, frames_PFD)
    if head.psi is None:
        return F.cosine_similarity(text_PD, base_PD, dim=-1)
    query_PD = text_PD if config.query == "text" else config.gap_sign * (mean_PD - text_PD)
    context, mask = frames_PFD, frame_mask_PF
    if config.context == "words":
        assert words_PWD is not None  # noqa: S101
        assert word_mask_PW is not None  # noqa: S101
        context, mask = words_PWD, word_mask_PW
    delta_PD = head.psi(query_PD[None], context, mask, per_text=False, dropout=None)[0]
    if config.corrected == "text":
        return F.cosine_similarity(text_PD + delta_PD, base_PD, dim=-1)
    return F.cosine_similarity(text_PD, base_PD + delta_PD, dim=-1)

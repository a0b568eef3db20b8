"""The pair head a few texts at a time, for batches of which no more than the increments themselves fits in memory.

What psi needs inside is made again in the backward pass, so that of every pair one vector is held and not a dozen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gare.objective.increments import BlockIncrements, cuts
from gare.scoring.head import PairDropout, PairHead, PairScores

BLOCK_NUMBERS = 2**26
"""Most numbers of one block of increments: 256 MB in float32. Smaller ones would project the context too often."""


def blocked_scores(
    head: PairHead,
    text_BD: Tensor,
    frames_VFD: Tensor,
    frame_mask_VF: Tensor,
    words_BWD: Tensor | None = None,
    word_mask_BW: Tensor | None = None,
    dropout: PairDropout | None = None,
) -> PairScores:
    """What ``head`` says of every text and video, with gradients, up to rounding."""

    def of_texts(start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        own = slice(start, stop)
        words = (None, None) if words_BWD is None or word_mask_BW is None else (words_BWD[own], word_mask_BW[own])
        drawn = None if dropout is None else replace(dropout, first_text=dropout.first_text + start)
        made = head(text_BD[own], frames_VFD, frame_mask_VF, *words, drawn)
        return made.scores, made.delta

    bounds = cuts(len(text_BD), len(frames_VFD), text_BD.shape[-1], BLOCK_NUMBERS)
    if len(bounds) == 1:
        parts = [of_texts(*bounds[0])]
    else:
        # Dropout has its own generator, so torch's need not be kept.
        parts = [checkpoint(of_texts, *cut, use_reentrant=False, preserve_rng_state=False) for cut in bounds]
    scores, increments = torch.cat([part[0] for part in parts]), [delta for _, delta in parts if delta is not None]
    return PairScores(scores, BlockIncrements(increments) if increments else None)

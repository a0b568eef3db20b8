"""Score every text against every video without gradients, with any head, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gare.scoring.factors import Factors, Rows, ScoreStats, Texts, Videos, slices, without_autocast
from gare.scoring.head import PairHead, as_float

DENSE_BLOCK = (256, 16)
"""Videos and texts that a head without factors takes at once."""


@dataclass(frozen=True)
class FrameGallery(Rows):
    """Videos as frames, for a head without factors."""

    videos: Videos


class ByHead(Factors[FrameGallery]):
    """A head without factors: the gallery holds frames, and the head itself scores every pair."""

    at_once = DENSE_BLOCK[0]

    def __init__(self, head: PairHead) -> None:
        self._head = head

    @override
    def build(self, videos: Videos, storage: torch.dtype | None = None) -> FrameGallery:
        frames = as_float(videos.frames).masked_fill(~videos.frame_mask[..., None], 0)
        return FrameGallery(Videos(frames.to(storage or frames.dtype), videos.frame_mask))

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> FrameGallery:
        return FrameGallery(Videos(tensors["videos.frames"], tensors["videos.frame_mask"]))

    @override
    @without_autocast
    def score(self, gallery: FrameGallery, texts: Texts, stats: ScoreStats) -> Tensor:
        scores = as_float(texts.text).new_empty(len(texts), len(gallery))
        stats.pairs += scores.numel()
        stats.dense_pairs += scores.numel()
        for columns in slices(len(gallery), DENSE_BLOCK[0]):
            videos = gallery.videos[columns]
            frames = videos.frames.to(scores.dtype)
            for rows in slices(len(texts), DENSE_BLOCK[1]):
                own = texts[rows]
                made = self._head(own.text, frames, videos.frame_mask, own.words, own.word_mask)
                scores[rows, columns] = made.scores
        return scores


def factors_of(head: PairHead) -> Factors[Any]:
    """Return the head's factors, or the head itself over stored frames."""
    return head.factors() or ByHead(head)


@without_autocast
def score_all(
    head: PairHead,
    text_BD: Tensor,
    frames_VFD: Tensor,
    mask_VF: Tensor,
    words_BWD: Tensor | None = None,
    word_mask_BW: Tensor | None = None,
    *,
    stats: ScoreStats | None = None,
) -> Tensor:
    """Return cosines [B, V] of encoded texts and videos; each video's factors are dropped after use.

    With context words, the factors of the videos, about as large as the frames, are kept until the end. Raises
    ConfigError if the head reads words and there are none.
    """
    factors, stats, texts = factors_of(head), stats or ScoreStats(), Texts(text_BD, words_BWD, word_mask_BW)
    scores = text_BD.new_empty(len(text_BD), len(frames_VFD), dtype=as_float(frames_VFD[:0]).dtype)
    for rows in slices(len(frames_VFD), factors.at_once or len(frames_VFD)):
        gallery = factors.build(Videos(frames_VFD[rows], mask_VF[rows]))
        scores[:, rows] = factors.score(gallery, texts, stats)
    return scores

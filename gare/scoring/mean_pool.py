"""Mean pooling without parameters (CLIP4Clip, Luo et al. 2022, arXiv 2104.08860): a video is one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gare.scoring.factors import Factors, Rows, ScoreStats, Texts, Videos, slices, without_autocast
from gare.scoring.head import PairDropout, PairHead, PairScores, as_float, masked_mean

BLOCK = 8192
"""Videos whose vectors are converted to the precision of the scores at once."""


class MeanPoolHead(PairHead):
    """A head that scores the cosine of the text with the mean of the video's normalised frames."""

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
        return PairScores(F.normalize(text, dim=-1) @ video_vectors(frames_VFD, frame_mask_VF).T)

    @override
    def factors(self) -> MeanFactors:
        return MeanFactors()


def video_vectors(frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
    """Return the means of the normalised valid frames, normalised again: [V, D]."""
    frames = F.normalize(frames_VFD.masked_fill(~mask_VF[..., None], 0), dim=-1)
    return F.normalize(masked_mean(frames, mask_VF), dim=-1)


@dataclass(frozen=True)
class MeanGallery(Rows):
    """Unit vectors [V, D]."""

    video: Tensor


class MeanFactors(Factors[MeanGallery]):
    """One vector per video: a score is an inner product."""

    stored = "video"

    @override
    @without_autocast
    def build(self, videos: Videos, storage: torch.dtype | None = None) -> MeanGallery:
        vectors = video_vectors(as_float(videos.frames), videos.frame_mask)
        return MeanGallery(vectors.to(storage or vectors.dtype))

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> MeanGallery:
        return MeanGallery(tensors["video"])

    @override
    @without_autocast
    def score(self, gallery: MeanGallery, texts: Texts, stats: ScoreStats) -> Tensor:
        text = F.normalize(as_float(texts.text), dim=-1)
        scores = text.new_empty(len(text), len(gallery))
        stats.pairs += scores.numel()
        for videos in slices(len(gallery), BLOCK):
            scores[:, videos] = text @ gallery.video[videos].to(text.dtype).T
        return scores

"""GARE's head over a gallery, by exact algebra (the method's section 6); doubtful pairs again, densely.

With dropout off, D_ij lies in the span of a few vectors that depend on the context alone (a video's frames or a text's
words). ``factors`` holds what is computed once per context and per video, ``pairs`` what is left per pair. Inside a
block the contexts are C sequences of L positions and N is the other side (texts for frames, videos for words).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from gare.scoring.factors import Factors, Rows, ScoreStats, slices, without_autocast
from gare.scoring.head import as_float
from gare.scoring.increment.dense import DenseHead, score_listed
from gare.scoring.increment.factors import ContextFactors, PsiMaps, VideoFactors
from gare.scoring.increment.first_stage import first_stage_scores, uniform_increment
from gare.scoring.increment.pairs import Queries, frames_block, plain_block, words_block

CPU_BLOCK = {"frames": (128, 256), "words": (128, 32)}
"""Videos and texts of a block: what stays in the caches of a CPU core."""

CUDA_BLOCK = {"frames": (256, 1024), "words": (512, 64)}
"""The same on a GPU: about 0.3 GB at F 12, D 512."""

BUILD_BLOCK = 128
"""Videos whose factors are computed at once."""


@dataclass(frozen=True)
class IncrementGallery(Rows):
    """Factors of every video.

    ``contexts`` and ``cross`` [V, F, F'] (P times the frames) with context frames; ``uniform`` [V, D], for the first
    stage there: D0.
    """

    videos: VideoFactors
    contexts: ContextFactors | None = None
    cross: Tensor | None = None
    uniform: Tensor | None = None


Block = tuple[slice, slice, tuple[Tensor, Tensor | None]]


class IncrementFactors(Factors[IncrementGallery]):
    """The algebra of a head at its present weights."""

    def __init__(self, head: DenseHead) -> None:
        self._head, self._cell = head, head.cell
        self._maps: dict[torch.dtype, PsiMaps] = {}
        self._by_words = head.psi is not None and head.config.context == "words"
        self.at_once = None if self._by_words else BUILD_BLOCK

    @override
    @without_autocast
    def build(
        self,
        frames_VFD: Tensor,
        mask_VF: Tensor,
        storage: torch.dtype | None = None,
        *,
        first_stage: bool = False,
    ) -> IncrementGallery:
        blocks = slices(len(frames_VFD), BUILD_BLOCK)
        parts = [
            self._build(as_float(frames_VFD[rows]), mask_VF[rows], storage, first_stage=first_stage) for rows in blocks
        ]
        return IncrementGallery.join(parts)

    def _build(
        self, frames: Tensor, mask: Tensor, storage: torch.dtype | None, *, first_stage: bool
    ) -> IncrementGallery:
        maps, psi, cell = self._maps_in(frames.dtype), self._head.psi, self._cell
        videos = VideoFactors.of(maps, frames, mask, cell, storage)
        if maps is None or psi is None or self._by_words:
            return IncrementGallery(videos)
        contexts = ContextFactors.of(maps, frames, mask, videos.mean, cell, storage)
        base, _ = videos.bases(cell)
        cross = contexts.increments.to(base.dtype) @ base.mT
        return IncrementGallery(videos, contexts, cross, uniform_increment(psi, frames, mask) if first_stage else None)

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> IncrementGallery:
        videos, contexts = _under(tensors, "videos."), _under(tensors, "contexts.")
        return IncrementGallery(
            VideoFactors(**videos),
            ContextFactors(**contexts) if contexts else None,
            tensors.get("cross"),
            tensors.get("uniform"),
        )

    @override
    @without_autocast
    def score(
        self,
        gallery: IncrementGallery,
        text_BD: Tensor,
        words: Tensor | None,
        word_mask: Tensor | None,
        stats: ScoreStats,
    ) -> Tensor:
        text = text_BD.to(gallery.videos.mean.dtype)
        words, word_mask = self._words(words, word_mask, text.dtype)
        scores = text.new_empty(len(text), len(gallery))
        stats.pairs += scores.numel()
        for texts, videos, (block, doubtful) in self._blocks(gallery, text, words, word_mask):
            scores[texts, videos] = block.T
            pairs = None if doubtful is None else doubtful.T.nonzero()
            if pairs is None or not len(pairs):
                continue
            stats.dense_pairs += len(pairs)
            part = gallery.videos.take(videos)
            own_words, own_mask = (None if x is None else x[texts] for x in (words, word_mask))
            again = score_listed(self._head, text[texts], part.frames, part.frame_mask, own_words, own_mask, pairs)
            scores[texts, videos][pairs[:, 0], pairs[:, 1]] = again
        return scores

    @override
    @without_autocast
    def first_stage(
        self, gallery: IncrementGallery, text_BD: Tensor, words: Tensor | None, word_mask: Tensor | None
    ) -> Tensor:
        """By the increment at uniform attention and the plain mean of the frames."""
        mean, psi = gallery.videos.mean, self._head.psi
        text = text_BD.to(mean.dtype)
        words, word_mask = self._words(words, word_mask, text.dtype)
        if psi is None:
            delta = torch.zeros_like(text)
        elif words is not None and word_mask is not None:
            delta = uniform_increment(psi, words, word_mask)
        else:
            assert gallery.uniform is not None  # noqa: S101 - built for it
            return first_stage_scores(text, mean, gallery.uniform, self._cell, of_texts=False)
        return first_stage_scores(text, mean, delta, self._cell, of_texts=True)

    def _maps_in(self, dtype: torch.dtype) -> PsiMaps | None:
        """Psi as maps; None for a model without an increment."""
        if self._head.psi is None:
            return None
        if dtype not in self._maps:
            self._maps[dtype] = PsiMaps.of(self._head.psi, dtype)
        return self._maps[dtype]

    def _words(
        self, words: Tensor | None, mask: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Words and mask where scoring reads them."""
        if not self._by_words:
            return None, None
        words, mask = self._cell.words(words, mask)
        return words.to(dtype), mask

    def _blocks(
        self, gallery: IncrementGallery, text: Tensor, words: Tensor | None, word_mask: Tensor | None
    ) -> Iterator[Block]:
        """(texts, videos, (cosines [v, b], distrust [v, b])) over the grid; each context's factors are made once."""
        maps, cell = self._maps_in(text.dtype), self._cell
        sizes = CPU_BLOCK if text.device.type == "cpu" else CUDA_BLOCK
        video_block, text_block = sizes["words" if self._by_words else "frames"]
        if maps is not None and words is not None and word_mask is not None:
            for texts in slices(len(text), text_block):
                own = text[texts]
                contexts = ContextFactors.of(maps, words[texts], word_mask[texts], own, cell)
                queries = Queries.of(own)
                for videos in slices(len(gallery), video_block):
                    yield texts, videos, words_block(maps, gallery.videos.take(videos), contexts, queries, cell)
            return
        for videos in slices(len(gallery), video_block):
            part = gallery.take(videos)
            for texts in slices(len(text), text_block):
                queries = Queries.of(text[texts])
                if maps is None or part.contexts is None or part.cross is None:
                    yield texts, videos, plain_block(part.videos, queries, cell)
                else:
                    yield texts, videos, frames_block(maps, part.videos, part.contexts, part.cross, queries, cell)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

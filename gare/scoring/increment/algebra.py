"""Score a gallery with GARE's head by exact algebra (the method's section 6), and doubtful pairs again densely.

With dropout off, D_ij lies in the span of a few vectors that depend on the context alone (a video's frames or a text's
words). ``factors`` holds what is computed once per context and per video, ``pairs`` what remains per pair. Inside a
block the contexts are C sequences of L positions and N is the other side (texts for frames, videos for words).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from gare.scoring.factors import Factors, Rows, ScoreStats, Texts, Videos, slices, without_autocast
from gare.scoring.head import as_float
from gare.scoring.increment.dense import DenseHead, score_listed
from gare.scoring.increment.factors import ContextFactors, PsiMaps, VideoFactors
from gare.scoring.increment.pairs import (
    Queries,
    frames_block,
    plain_block,
    words_block,
)

CPU_BLOCK = {"frames": (128, 256), "words": (128, 32)}
"""Videos and texts of a block, which fit in the caches of a CPU core."""

CUDA_BLOCK = {"frames": (256, 1024), "words": (512, 64)}
"""The same on a GPU: about 0.3 GB at F 12, D 512."""

BUILD_BLOCK = 128
"""Videos whose factors are computed at once."""


@dataclass(frozen=True)
class IncrementGallery(Rows):
    """Factors of every video.

    ``contexts`` and ``cross`` [V, F, F'] (P times the frames) exist with context frames.
    """

    videos: VideoFactors
    contexts: ContextFactors | None = None
    cross: Tensor | None = None


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
    def build(self, videos: Videos, storage: torch.dtype | None = None) -> IncrementGallery:
        blocks = slices(len(videos), BUILD_BLOCK)
        return IncrementGallery.join([self._build(videos[rows], storage) for rows in blocks])

    def _build(self, given: Videos, storage: torch.dtype | None) -> IncrementGallery:
        frames, mask, psi, cell = as_float(given.frames), given.frame_mask, self._head.psi, self._cell
        maps = self._maps_in(frames.dtype)
        videos = VideoFactors.of(maps, frames, mask, cell, storage)
        if maps is None or psi is None or self._by_words:
            return IncrementGallery(videos)
        contexts = ContextFactors.of(maps, frames, mask, videos.mean, cell, storage)
        base, _ = videos.bases(cell)
        cross = contexts.increments.to(base.dtype) @ base.mT
        return IncrementGallery(videos, contexts, cross)

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> IncrementGallery:
        videos, contexts = _under(tensors, "videos."), _under(tensors, "contexts.")
        return IncrementGallery(
            VideoFactors(**videos),
            ContextFactors(**contexts) if contexts else None,
            tensors.get("cross"),
        )

    @override
    @without_autocast
    def score(self, gallery: IncrementGallery, texts: Texts, stats: ScoreStats) -> Tensor:
        texts = self._read(texts, gallery)
        scores = texts.text.new_empty(len(texts), len(gallery))
        stats.pairs += scores.numel()
        for rows, columns, (block, doubtful) in self._blocks(gallery, texts):
            scores[rows, columns] = block.T
            pairs = None if doubtful is None else doubtful.T.nonzero()
            if pairs is not None and len(pairs):
                stats.dense_pairs += len(pairs)
                videos = gallery.videos[columns]
                again = score_listed(self._head, texts[rows], Videos(videos.frames, videos.frame_mask), pairs)
                scores[rows, columns][pairs[:, 0], pairs[:, 1]] = again
        return scores

    def _maps_in(self, dtype: torch.dtype) -> PsiMaps | None:
        """Return psi as maps; None for a model without an increment."""
        if self._head.psi is None:
            return None
        if dtype not in self._maps:
            self._maps[dtype] = PsiMaps.of(self._head.psi, dtype)
        return self._maps[dtype]

    def _read(self, texts: Texts, gallery: IncrementGallery) -> Texts:
        """Convert texts to the gallery's precision, with words if scoring reads them."""
        dtype = gallery.videos.mean.dtype
        if not self._by_words:
            return Texts(texts.text.to(dtype))
        words, mask = self._cell.words(texts.words, texts.word_mask)
        return Texts(texts.text.to(dtype), words.to(dtype), mask)

    def _blocks(self, gallery: IncrementGallery, texts: Texts) -> Iterator[Block]:
        """Yield (texts, videos, (cosines [v, b], distrust [v, b])) over the grid; a context's factors are made once."""
        maps, cell = self._maps_in(texts.text.dtype), self._cell
        sizes = CPU_BLOCK if texts.text.device.type == "cpu" else CUDA_BLOCK
        video_block, text_block = sizes["words" if self._by_words else "frames"]
        if maps is not None and self._by_words:
            for rows in slices(len(texts), text_block):
                own = texts[rows]
                contexts = ContextFactors.of(maps, *cell.words(own.words, own.word_mask), own.text, cell)
                queries = Queries.of(own.text)
                for columns in slices(len(gallery), video_block):
                    yield rows, columns, words_block(maps, gallery.videos[columns], contexts, queries, cell)
            return
        for columns in slices(len(gallery), video_block):
            part = gallery[columns]
            for rows in slices(len(texts), text_block):
                queries = Queries.of(texts.text[rows])
                if maps is None or part.contexts is None or part.cross is None:
                    yield rows, columns, plain_block(part.videos, queries, cell)
                else:
                    yield rows, columns, frames_block(maps, part.videos, part.contexts, part.cross, queries, cell)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

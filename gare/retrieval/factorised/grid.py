"""Every text against every video in blocks of bounded memory; doubtful pairs again, densely."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from gare.common.errors import ConfigError
from gare.config.model import ModelConfig
from gare.model.head import PairHead
from gare.retrieval.factorised.dense import score_listed
from gare.retrieval.factorised.factors import ContextFactors, PsiMaps, VideoFactors
from gare.retrieval.factorised.pairs import Queries, frames_block, plain_block, words_block

CPU_BLOCK = {"frames": (128, 256), "words": (128, 32)}
"""Videos and texts of a block: what stays in the caches of a CPU core."""

CUDA_BLOCK = {"frames": (256, 1024), "words": (512, 64)}
"""The same on a GPU: about 0.3 GB at F 12, D 512."""

DENSE_BLOCK = (256, 16)
"""Videos and texts the dense head takes at once."""

BUILD_BLOCK = 128
"""Videos whose factors are computed at once."""


P = ParamSpec("P")
T = TypeVar("T")


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """Run without gradients and in the tensors' own types: the head's rule, on every kind of device."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return run


@dataclass
class ScoreStats:
    """How many pairs were scored, and how many of them densely because of cancellation."""

    pairs: int = 0
    dense_pairs: int = 0


@dataclass(frozen=True)
class Gallery:
    """Factors of every video; ``contexts`` and ``cross`` [V, F, F'] (P times the frames) with context frames."""

    videos: VideoFactors
    contexts: ContextFactors | None
    cross: Tensor | None

    @classmethod
    @without_autocast
    def of(
        cls,
        head: PairHead,
        maps: PsiMaps | None,
        frames_VFD: Tensor,
        mask_VF: Tensor,
        storage: torch.dtype | None = None,
    ) -> Gallery:
        """Of frame vectors with mask, ``BUILD_BLOCK`` videos at a time; the large factors in type ``storage``."""
        parts = []
        for rows in slices(len(frames_VFD), BUILD_BLOCK):
            frames = frames_VFD[rows].to(compute_dtype(frames_VFD))
            videos = VideoFactors.of(maps, frames, mask_VF[rows], head.config, storage)
            contexts = cross = None
            if maps is not None and head.config.context == "frames":
                contexts = ContextFactors.of(maps, frames, mask_VF[rows], videos.mean, head.config, storage)
                base, _ = videos.base(head.config)
                cross = contexts.increments.to(base.dtype) @ base.mT
            parts.append(cls(videos, contexts, cross))
        if len(parts) == 1:
            return parts[0]
        joined = [p.contexts for p in parts if p.contexts is not None]
        return cls(
            VideoFactors.join([p.videos for p in parts]),
            ContextFactors.join(joined) if joined else None,
            torch.cat([p.cross for p in parts if p.cross is not None]) if joined else None,
        )

    def take(self, rows: slice | Tensor) -> Gallery:
        """Some of the videos."""
        contexts = None if self.contexts is None else self.contexts.take(rows)
        return Gallery(self.videos.take(rows), contexts, None if self.cross is None else self.cross[rows])

    def to(self, device: torch.device | str) -> Gallery:
        """The same on another device."""
        contexts = None if self.contexts is None else self.contexts.to(device)
        return Gallery(self.videos.to(device), contexts, None if self.cross is None else self.cross.to(device))


@dataclass(frozen=True)
class Words:
    """Word vectors [B, W, D] with mask [B, W]; both None unless model.context is words."""

    vectors: Tensor | None
    mask: Tensor | None

    @classmethod
    def needed(cls, config: ModelConfig, words: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Words:
        """What scoring needs of them; raises ConfigError where it needs words and gets none."""
        if config.context != "words" or config.increment == "none":
            return cls(None, None)
        if words is None or mask is None:
            raise ConfigError("model.context is words: scoring needs words and word_mask.")
        return cls(words.to(dtype), mask)

    def take(self, rows: slice) -> Words:
        """Of some of the texts."""
        return Words(
            None if self.vectors is None else self.vectors[rows], None if self.mask is None else self.mask[rows]
        )


def factorises(config: ModelConfig) -> bool:
    """Whether the factorisation covers this model: the residual queries are scored by the head."""
    return config.query in {"gap", "text"}


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
    """Cosines [B, V] of encoded texts and videos, each video's factors made and dropped again.

    With context words the factors of the videos, about as large as the frames, are kept until the end.
    Raises ConfigError when model.context is words and there are none.
    """
    maps = psi_maps(head, compute_dtype(frames_VFD))
    block = len(frames_VFD) if head.config.context == "words" else BUILD_BLOCK
    scores = text_BD.new_empty(len(text_BD), len(frames_VFD), dtype=compute_dtype(frames_VFD))
    for rows in slices(len(frames_VFD), block):
        gallery = Gallery.of(head, maps, frames_VFD[rows], mask_VF[rows])
        scores[:, rows] = score_grid(head, maps, gallery, text_BD, words_BWD, word_mask_BW, stats=stats)
    return scores


def psi_maps(head: PairHead, dtype: torch.dtype) -> PsiMaps | None:
    """Maps of psi; None for a model without an increment, or with one that does not factorise."""
    return PsiMaps.of(head.psi, dtype) if head.psi is not None and factorises(head.config) else None


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32: the head's own rule."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@without_autocast
def score_grid(
    head: PairHead,
    maps: PsiMaps | None,
    gallery: Gallery,
    text_BD: Tensor,
    words_BWD: Tensor | None = None,
    word_mask_BW: Tensor | None = None,
    *,
    stats: ScoreStats | None = None,
) -> Tensor:
    """Cosines [B, V]. Memory beside the result does not grow with B or V.

    Raises ConfigError when model.context is words and there are none.
    """
    text = text_BD.to(gallery.videos.mean.dtype)
    words = Words.needed(head.config, words_BWD, word_mask_BW, text.dtype)
    scores = text.new_empty(len(text), len(gallery.videos.mean))
    stats = stats if stats is not None else ScoreStats()
    stats.pairs += scores.numel()
    if not factorises(head.config):
        stats.dense_pairs += scores.numel()
        return _by_head(head, gallery.videos, text, words, scores)
    for texts, videos, (block, doubtful) in _blocks(head, maps, gallery, text, words):
        scores[texts, videos] = block.T
        if doubtful is None:
            continue
        pairs = doubtful.T.nonzero()
        if not len(pairs):
            continue
        stats.dense_pairs += len(pairs)
        part, mine = gallery.videos.take(videos), words.take(texts)
        again = score_listed(head, text[texts], part.frames, part.frame_mask, mine.vectors, mine.mask, pairs)
        scores[texts, videos][pairs[:, 0], pairs[:, 1]] = again
    return scores


def _by_head(head: PairHead, gallery: VideoFactors, text: Tensor, words: Words, scores: Tensor) -> Tensor:
    """Fill the cosines by the dense head, for what has no factorised form."""
    for rows in slices(len(gallery.mean), DENSE_BLOCK[0]):
        videos = gallery.take(rows)
        frames = videos.frames.to(text.dtype)
        for texts in slices(len(text), DENSE_BLOCK[1]):
            own = words.take(texts)
            scores[texts, rows] = head(text[texts], frames, videos.frame_mask, own.vectors, own.mask).scores
    return scores


Block = tuple[slice, slice, tuple[Tensor, Tensor | None]]


def _blocks(head: PairHead, maps: PsiMaps | None, gallery: Gallery, text: Tensor, words: Words) -> Iterator[Block]:
    """(texts, videos, (cosines [v, b], distrust [v, b])) over the grid; each context's factors are made once."""
    config = head.config
    sizes = CPU_BLOCK if text.device.type == "cpu" else CUDA_BLOCK
    by_words = maps is not None and config.context == "words"
    video_block, text_block = sizes["words" if by_words else "frames"]
    if by_words:
        assert maps is not None  # noqa: S101
        assert words.vectors is not None  # noqa: S101
        assert words.mask is not None  # noqa: S101
        for texts in slices(len(text), text_block):
            own = text[texts]
            contexts = ContextFactors.of(maps, words.vectors[texts], words.mask[texts], own, config)
            queries = Queries.of(own)
            for videos in slices(len(gallery.videos.mean), video_block):
                yield texts, videos, words_block(maps, gallery.videos.take(videos), contexts, queries, config)
        return
    for videos in slices(len(gallery.videos.mean), video_block):
        part = gallery.take(videos)
        for texts in slices(len(text), text_block):
            queries = Queries.of(text[texts])
            if maps is None:
                yield texts, videos, plain_block(part.videos, queries, config)
            else:
                assert part.contexts is not None  # noqa: S101
                assert part.cross is not None  # noqa: S101
                yield texts, videos, frames_block(maps, part.videos, part.contexts, part.cross, queries, config)


def slices(count: int, block: int) -> Iterator[slice]:
    """[0, count) in blocks."""
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))

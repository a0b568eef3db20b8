"""The gallery that a search index stores: psi's maps move to the query, so a video keeps its frames and small Grams.

The keys and increments of a video are linear maps of its normalised frames, x_f = LN1(v_f):

    <t, M x_f + c> = <v_f, centre(g * M't)> / std(v_f) + <M't, b> + <t, c>        g, b the gain and bias of LN1

so their inner products with a text are those of the frames with a transformed text. It remains to store the frames, one
number for each frame's length, the triangular Grams of the norms and P times the frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from gare.common.errors import ConfigError
from gare.scoring.factors import Factors, Rows, ScoreStats, Texts, Videos, slices, without_autocast
from gare.scoring.head import as_float
from gare.scoring.increment.algebra import BUILD_BLOCK, CPU_BLOCK, CUDA_BLOCK
from gare.scoring.increment.blocks import Queries, frames_block, times
from gare.scoring.increment.cell import centred
from gare.scoring.increment.dense import DenseHead, score_listed
from gare.scoring.increment.precompute import ContextFactors, PsiMaps, VideoFactors
from gare.scoring.increment.psi import NORM_EPS


@dataclass(frozen=True)
class CompactGallery(Rows):
    """The stored factors of every video: V videos, F frames; F' is F, or 1 with model.video_base mean.

    ``frames`` [V, F, D] with ``frame_mask`` [V, F], zero where masked; ``scale`` [V, F]: 1 / std of LN1.
    ``own_logits``, ``key_bias`` [V, F], ``corner`` [V, 4], ``cross`` [V, F, F'], ``shared`` [V, 2, F']: as in
    ``ContextFactors`` and ``VideoFactors``. ``mixing`` and ``pool_gram`` hold the upper triangles of theirs.
    """

    frames: Tensor
    frame_mask: Tensor
    scale: Tensor
    own_logits: Tensor
    key_bias: Tensor
    corner: Tensor
    cross: Tensor
    shared: Tensor
    mixing: Tensor
    pool_gram: Tensor


class CompactFactors(Factors[CompactGallery]):
    """The algebra of a head whose context is the frames, over the smallest gallery that gives exact scores."""

    at_once = BUILD_BLOCK
    stored = "frames"

    def __init__(self, head: DenseHead) -> None:
        """Raise ConfigError, with the reason, for a head that keeps no factors of its videos' frames."""
        cell = head.cell
        cell.check_factorises()
        if head.psi is None or head.config.context == "words":
            raise ConfigError("There are no factors of frames to keep where psi does not attend to the frames.")
        self._head, self._cell, self._psi = head, cell, head.psi
        self._maps: dict[torch.dtype, PsiMaps] = {}

    @override
    @without_autocast
    def build(self, videos: Videos, storage: torch.dtype | None = None) -> CompactGallery:
        """Build the factors of the frames as stored: they are rounded first if ``storage`` is a smaller type."""
        blocks = slices(len(videos), BUILD_BLOCK)
        return CompactGallery.join([self._build(videos[rows], storage) for rows in blocks])

    def _build(self, given: Videos, storage: torch.dtype | None) -> CompactGallery:
        dtype, mask = as_float(given.frames[:0]).dtype, given.frame_mask
        stored = given.frames.to(storage or dtype).masked_fill(~mask[..., None], 0)
        frames, cell, maps = stored.to(dtype), self._cell, self._maps_in(dtype)
        videos = VideoFactors.of(maps, frames, mask, cell)
        contexts = ContextFactors.of(maps, frames, mask, videos.mean, cell)
        base, _ = videos.bases(cell)
        variance = centred(frames.double()).square().mean(-1)
        count = frames.shape[1]
        return CompactGallery(
            frames=stored,
            frame_mask=mask,
            scale=(variance + NORM_EPS).rsqrt().to(dtype).masked_fill(~mask, 0),
            own_logits=contexts.own_logits,
            key_bias=contexts.key_bias,
            corner=contexts.corner,
            cross=contexts.increments @ base.mT,
            shared=videos.shared,
            mixing=contexts.mixing[:, *_mixing_places(count, frames.device)],
            pool_gram=videos.pool_gram[:, *_upper(base.shape[1], frames.device)],
        )

    @override
    def read(self, tensors: Mapping[str, Tensor]) -> CompactGallery:
        return CompactGallery(**tensors)

    @override
    @without_autocast
    def score(self, gallery: CompactGallery, texts: Texts, stats: ScoreStats) -> Tensor:
        text = texts.text.to(gallery.scale.dtype)
        scores = text.new_empty(len(text), len(gallery))
        stats.pairs += scores.numel()
        for rows, columns, (block, doubtful) in self._blocks(gallery, text):
            scores[rows, columns] = block.T
            pairs = doubtful.T.nonzero()
            if len(pairs):
                stats.dense_pairs += len(pairs)
                part = gallery[columns]
                again = score_listed(self._head, Texts(text[rows]), Videos(part.frames, part.frame_mask), pairs)
                scores[rows, columns][pairs[:, 0], pairs[:, 1]] = again
        return scores

    def _blocks(self, gallery: CompactGallery, text_BD: Tensor) -> Iterator[tuple[slice, slice, tuple[Tensor, Tensor]]]:
        video_block, text_block = (CPU_BLOCK if text_BD.device.type == "cpu" else CUDA_BLOCK)["frames"]
        asked = [(rows, self._ask(text_BD[rows])) for rows in slices(len(text_BD), text_block)]
        for columns in slices(len(gallery), video_block):
            videos, contexts, cross = _expanded(gallery[columns])
            for rows, query in asked:
                yield rows, columns, self._block(videos, contexts, cross, gallery.scale[columns], query)

    def _ask(self, text_BD: Tensor) -> _Query:
        """Return texts and their products with psi's maps, computed in float64 and rounded at the end."""
        maps, text, dim = self._maps_in(torch.float64), text_BD.double(), text_BD.shape[-1]
        gain, bias = maps.norm
        _, of_text = self._cell.query_parts()
        rows, constants = [], []
        for (matrix, vector), factor in ((maps.keys, of_text / dim**0.5), (maps.increments, 1.0)):
            mapped = text @ matrix * factor
            rows.append(centred(mapped * gain))
            constants.append(mapped @ bias + text @ vector * factor)
        dtype = text_BD.dtype
        return _Query(Queries.of(text_BD), torch.cat(rows).to(dtype), *(c.to(dtype) for c in constants))

    def _block(
        self, videos: VideoFactors, contexts: ContextFactors, cross: Tensor, scale: Tensor, query: _Query
    ) -> tuple[Tensor, Tensor]:
        """Return cosines [V, B] and distrust [V, B], with psi's maps on the side of the texts."""
        of_keys, of_rows = times(videos.frames, query.rows).chunk(2, dim=-1)
        products = (
            of_keys * scale[..., None] + query.of_keys,
            of_rows * scale[..., None] + query.of_increments,
        )
        maps = self._maps_in(query.queries.text.dtype)
        return frames_block(maps, videos, contexts, cross, query.queries, self._cell, products)

    def _maps_in(self, dtype: torch.dtype) -> PsiMaps:
        if dtype not in self._maps:
            self._maps[dtype] = PsiMaps.of(self._psi, dtype)
        return self._maps[dtype]


@dataclass(frozen=True)
class _Query:
    """Texts; ``rows`` [2 B, D] replace the keys' and the increments' maps, with their constants [B]."""

    queries: Queries
    rows: Tensor
    of_keys: Tensor
    of_increments: Tensor


def _upper(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return row and column numbers of an upper triangle."""
    rows, columns = torch.triu_indices(size, size, device=device).unbind(0)
    return rows, columns


def _mixing_places(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where ``ContextFactors.mixing`` [3 F + 3, F] is not zero: 3 triangles, 1 and 2 full rows between them."""
    rows, columns = _upper(count, device)
    full = torch.arange(count, device=device)
    starts = ((0, 0), (count, 1), (2 * count + 1, 2))
    found_rows, found_columns = [], []
    for start, shared in starts:
        for row in range(shared):
            found_rows.append(torch.full_like(full, start + row))
            found_columns.append(full)
        found_rows.append(rows + start + shared)
        found_columns.append(columns)
    return torch.cat(found_rows), torch.cat(found_columns)


def _expanded(part: CompactGallery) -> tuple[VideoFactors, ContextFactors, Tensor]:
    """Return the factors of a block's videos, in the precision of the scores, without keys and increments."""
    dtype, (count, frames) = part.scale.dtype, part.scale.shape
    bases = part.shared.shape[-1]
    mixing = part.mixing.new_zeros(count, 3 * frames + 3, frames)
    mixing[:, *_mixing_places(frames, mixing.device)] = part.mixing
    gram = part.pool_gram.new_zeros(count, bases, bases)
    gram[:, *_upper(bases, gram.device)] = part.pool_gram
    vectors = part.frames.to(dtype)
    mean = vectors.sum(1) / part.frame_mask.sum(1, keepdim=True).to(dtype)
    none = vectors[:, :, :0]
    contexts = ContextFactors(none, part.own_logits, part.key_bias, none, mixing, part.corner)
    return VideoFactors(vectors, part.frame_mask, mean, gram, part.shared), contexts, part.cross

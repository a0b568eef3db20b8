"""Rankings without a score matrix: tiles of scores are made, counted in both directions at once and dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import InputError, RunError
from gare.retrieval.metrics.counting import COLUMNS, ROWS, Ties, Tile, count_ranks
from gare.retrieval.metrics.ranking import Ranking, as_rankings


def tiled_rankings(
    tile: Tile,
    owner: NDArray[np.integer],
    videos: int,
    *,
    ties: Ties = "pessimistic",
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> dict[str, Ranking]:
    """Rankings as of ``metrics.rankings``, of scores that are only ever there in tiles.

    ``tile(texts, videos)`` gives the scores [r, c] of two slices, the same numbers every time; tiles with own pairs are
    asked for twice. ``owner`` [N]: the column of each text's video, ascending: texts come sorted by video. Memory
    beside the tile grows with N + V. Raises RunError for NaN and for no texts.
    """
    return as_rankings(count_ranks(tile, owner, videos, ties=ties, rows=rows, columns=columns), owner, videos)


def embedding_rankings(
    texts: NDArray[Any],
    videos: NDArray[Any],
    owner: NDArray[np.integer],
    *,
    ties: Ties = "pessimistic",
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> dict[str, Ranking]:
    """Rankings by the cosine, in float32, of texts [N, D] and videos [V, D]; nothing of size N x V is made.

    ``owner`` [N]: the column of each text's video, in any order. A vector of zeros has the cosine 0 with everything.
    Raises InputError for widths that differ, RunError for a value that is not finite and for no texts.
    """
    if texts.shape[1:] != videos.shape[1:]:
        raise InputError(f"Texts of width {texts.shape[1:]} cannot be compared with videos of {videos.shape[1:]}.")
    order = np.argsort(owner, kind="stable")
    if len(order) != len(texts):
        raise ValueError(f"{len(order)} texts cannot have {len(texts)} embeddings.")
    text, video = _unit(texts)[order], _unit(videos)
    space = np.empty(min(rows, len(text)) * min(columns, len(video)), np.float32)

    def cosines(r: slice, c: slice) -> NDArray[np.float32]:
        a, b = text[r], video[c]
        scores: NDArray[np.float32] = space[: len(a) * len(b)].reshape(len(a), len(b))
        return np.matmul(a, b.T, out=scores)

    ranks = count_ranks(cosines, owner[order], len(video), ties=ties, rows=rows, columns=columns)
    return as_rankings(ranks.in_order(order), owner, len(video))


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1 in float32, [N, D]; lengths are taken in float64."""
    if not np.isfinite(vectors).all():
        raise RunError("Some embeddings are not finite; no metric can be trusted. The model has diverged.")
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    unit = vectors / np.where(lengths > 0, lengths, 1)[:, None]
    return np.ascontiguousarray(unit, np.float32)

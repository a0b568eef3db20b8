"""Count ranks tile by tile, both directions at once, in memory that grows with N + V; done only here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import RunError

Ties = Literal["pessimistic", "optimistic", "mean"]
"""The order of a right and a wrong answer with the same score: wrong first, right first, or the mean of both."""

Tile = Callable[[slice, slice], NDArray[Any]]
"""Returns scores [r, c] of a slice of the texts against a slice of the videos, the same numbers on every call."""

View = Callable[[NDArray[Any], slice, slice], NDArray[Any]]
"""Makes other scores [r, c], such as post-processed ones, from a tile of some texts and videos."""

Seen = Callable[[str, slice, slice, NDArray[Any]], None]
"""Receives each tile of each view once, those of the same texts in succession."""

ROWS, COLUMNS = 4080, 2040
"""Texts and videos of a tile: 33 MB of float32, enough for a matrix product to be efficient."""

WORD = 8
BLOCK = (255, 255 * WORD)
"""Rows and columns compared at once: few enough for a count to fit a byte, or each byte of a word."""

STRIP = BLOCK[0]
"""Rows of a tile from which other scores are made together, so that they stay in the caches of a core."""

COMPARISONS: dict[Ties, list[np.ufunc]] = {
    "optimistic": [np.greater],
    "pessimistic": [np.greater_equal],
    "mean": [np.greater, np.greater_equal],
}


@dataclass(frozen=True)
class Ranks:
    """``t2v`` [N]; ``v2t``, ``v2t_grouped`` (None if no video has several captions) [C] of videos ``captioned`` [C]."""

    t2v: NDArray[Any]
    v2t: NDArray[Any]
    v2t_grouped: NDArray[Any] | None
    captioned: NDArray[np.int64]


def count_views(
    tile: Tile,
    views: Mapping[str, View],
    owner: NDArray[np.integer],
    videos: int,
    *,
    ties: Ties = "pessimistic",
    rows: int = ROWS,
    columns: int = COLUMNS,
    seen: Seen | None = None,
) -> dict[str, Ranks]:
    """Count the ranks in several scores made from the same tiles, in one pass over them.

    Tiles with own pairs come first: all other scores are compared with theirs. Then every tile is requested once.
    Raises RunError for no texts and for NaN, ValueError for an owner that is not ascending or not a video.
    """
    video = np.asarray(owner, np.int64)
    _check_owner(video, videos)
    own = _own_scores(tile, views, video, videos, rows, columns)
    captioned, first, captions = np.unique(video, return_index=True, return_counts=True)
    groups = bool(captions.max() > 1)
    counts = {name: _Counts(ties, own[name], video, videos, captioned, first, groups) for name in views}
    bad = 0
    for texts, gallery in grid(len(video), videos, rows, columns):
        scores = _ask(tile, texts, gallery)
        if np.isnan(scores.max()):
            bad += int(np.isnan(scores).sum())
        for part, strip in strips(scores, texts.start):
            for name, view in views.items():
                made = view(strip, part, gallery)
                counts[name].add(made, part.start, gallery.start)
                if seen is not None:
                    seen(name, part, gallery, made)
    if bad:
        raise RunError(
            f"{bad} of {len(video) * videos} scores are NaN; no metric can be trusted. The model has diverged."
        )
    return {name: found.ranks() for name, found in counts.items()}


class _Counts:
    """The counters of one view: one comparison, or two whose average is taken."""

    def __init__(
        self,
        ties: Ties,
        own: NDArray[Any],
        owner: NDArray[np.int64],
        videos: int,
        captioned: NDArray[np.int64],
        first: NDArray[np.int64],
        groups: bool,  # noqa: FBT001 - only used here
    ) -> None:
        best = np.zeros(videos, own.dtype)
        best[captioned] = np.maximum.reduceat(own, first)
        self._level = np.add.reduceat((own == best[owner]).astype(np.int64), first)
        self._captioned, self._groups = captioned, groups
        self._counters = [_Counter(compare, own, best, owner if groups else None) for compare in COMPARISONS[ties]]

    def add(self, scores: NDArray[Any], row: int, column: int) -> None:
        """Count a tile."""
        for counter in self._counters:
            counter.add(scores, row, column)

    def ranks(self) -> Ranks:
        """Return the ranks, once every tile is counted."""
        t2v, v2t, grouped = _mean([counter.ranks(self._captioned, self._level) for counter in self._counters])
        return Ranks(t2v, v2t, grouped if self._groups else None, self._captioned)


class _Counter:
    """Counts scores ahead of the own ones by one comparison, for texts, videos and optionally groups of texts."""

    def __init__(
        self, compare: np.ufunc, own: NDArray[Any], best: NDArray[Any], owner: NDArray[np.int64] | None
    ) -> None:
        self.compare, self.own, self.best, self.owner = compare, own, best, owner
        self.texts = np.zeros(len(own), np.int64)
        self.videos = np.zeros(len(best), np.int64)
        self.groups = np.zeros(len(best), np.int64)
        self.open = np.zeros(len(best), bool)  # True if the group at the previous block's end is already counted
        self.flags = np.zeros(BLOCK[0] * BLOCK[1], bool)

    def ranks(self, captioned: NDArray[np.int64], level: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return t2v [N], v2t [C], v2t_grouped [C]; ``level`` [C]: how many own captions score as high as the best."""
        itself = self.compare is np.greater_equal  # it also counts the own ones
        videos, groups = self.videos[captioned], self.groups[captioned]
        return [1 + self.texts - itself, 1 + videos - itself * level, 1 + groups - itself]

    def add(self, scores: NDArray[Any], row: int, column: int) -> None:
        """Count a tile whose first text and video are ``row`` and ``column``."""
        for rows, columns in grid(scores.shape[0], scores.shape[1], BLOCK[0], BLOCK[1]):
            texts = slice(row + rows.start, row + rows.stop)
            videos = slice(column + columns.start, column + columns.stop)
            block = scores[rows, columns]
            padded = self._buffer(*block.shape)
            flags = padded[:, : block.shape[1]]
            self.compare(block, self.own[texts, None], out=flags)
            self.texts[texts] += _row_sums(padded)
            self.compare(block, self.best[videos], out=flags)
            self.videos[videos] += np.add.reduce(flags.view(np.uint8), axis=0, dtype=np.uint8)
            if self.owner is not None:
                self._add_groups(padded, self.owner, texts, videos)

    def _buffer(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """Return flags [rows, columns rounded up to words], false in the padding."""
        width = -(-columns // WORD) * WORD
        flags = self.flags[: rows * width].reshape(rows, width)
        flags[:, columns:] = False
        return flags

    def _add_groups(self, padded: NDArray[np.bool_], owner: NDArray[np.int64], texts: slice, videos: slice) -> None:
        """Count each group once for each video, at the first block where one of its texts is a hit."""
        local = owner[texts]
        starts = np.flatnonzero(np.diff(local, prepend=local[0] - 1))
        words = np.bitwise_or.reduceat(padded.view(np.uint64), starts, axis=0)
        hits = words.view(np.bool_)[:, : videos.stop - videos.start]
        self.groups[videos] += np.add.reduce(hits.view(np.uint8), axis=0, dtype=np.uint8)
        continued = texts.start > 0 and owner[texts.start - 1] == local[0]
        if continued:
            counted = self.open[videos]
            self.groups[videos] -= counted & hits[0]
            hits[0] |= counted
        self.open[videos] = hits[-1]


def _own_scores(
    tile: Tile, views: Mapping[str, View], owner: NDArray[np.int64], videos: int, rows: int, columns: int
) -> dict[str, NDArray[Any]]:
    """Return the score of each text with its own video [N], by view, from only the tiles that hold one."""
    own: dict[str, NDArray[Any]] = {}
    for texts, gallery in grid(len(owner), videos, rows, columns):
        if not len(_within(owner, texts, gallery)):
            continue
        # Use the same strips as for the comparison, so that the numbers are the same to the last bit.
        for part, strip in strips(_ask(tile, texts, gallery), texts.start):
            mine = _within(owner, part, gallery)
            for name, view in views.items():
                made = view(strip, part, gallery)
                if name not in own:
                    own[name] = np.empty(len(owner), made.dtype)
                own[name][mine] = made[mine - part.start, owner[mine] - gallery.start]
    return own


def _within(owner: NDArray[np.int64], texts: slice, gallery: slice) -> NDArray[np.int64]:
    """Return the texts of a slice whose own video is in the gallery's slice."""
    return np.arange(*(texts.start + np.searchsorted(owner[texts], [gallery.start, gallery.stop])))


def strips(scores: NDArray[Any], start: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield the texts and scores of a tile, whose first text is ``start``, in strips of ``STRIP`` rows."""
    for first in range(0, len(scores), STRIP):
        strip = scores[first : first + STRIP]
        yield slice(start + first, start + first + len(strip)), strip


def _ask(tile: Tile, texts: slice, videos: slice) -> NDArray[Any]:
    """Return one tile. Raises ValueError if it has the wrong shape."""
    scores = np.asarray(tile(texts, videos))
    wanted = (texts.stop - texts.start, videos.stop - videos.start)
    if scores.shape != wanted:
        raise ValueError(f"A tile of {wanted} scores has the shape {scores.shape}.")
    return scores


def _row_sums(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the true flags of each row of at most 255 words by adding whole words; each byte is a count."""
    words = np.add.reduce(flags.view(np.uint64), axis=1)
    sums: NDArray[np.int64] = words.view(np.uint8).reshape(-1, WORD).sum(axis=1, dtype=np.int64)
    return sums


def _mean(found: list[list[NDArray[np.int64]]]) -> list[NDArray[Any]]:
    """Return the ranks of one comparison unchanged, or the average of two."""
    return found[0] if len(found) == 1 else [(a + b) / 2 for a, b in zip(*found, strict=True)]


def _check_owner(owner: NDArray[np.int64], videos: int) -> None:
    if not len(owner):
        raise RunError("There are no queries to measure retrieval with.")
    if (np.diff(owner) < 0).any() or owner[0] < 0 or owner[-1] >= videos:
        raise ValueError(f"The texts' videos must be ascending columns of a gallery of {videos}.")


def grid(height: int, width: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks that cover [0, height) x [0, width), those of the same rows in succession."""
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))

"""Count the attributes of an index's videos, also among those that a filter leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gare.retrieval.index import SearchIndex
from gare.retrieval.segment import Segment

MOST_VALUES = 50
"""Values listed of an attribute, the most frequent first."""

KEPT_FILTERS = 256
"""Filters whose counts stay in memory."""


@dataclass(frozen=True)
class ValueCounts:
    """An attribute: its most frequent values with their numbers of videos, and how many further values there are."""

    name: str
    values: list[tuple[str, int]]
    more: int


class Facets:
    """The attributes of an opened index: every distinct pair of name and value has a number."""

    def __init__(self, index: SearchIndex) -> None:
        self._segments = index.segments
        self._pairs: dict[tuple[str, str], int] = {}
        self._of = [self._numbered(segment) for segment in index.segments]
        self._listed = list(self._pairs)
        self.names = sorted({name for name, _ in self._pairs})
        self._own = {name: np.flatnonzero([n == name for n, _ in self._listed]) for name in self.names}
        self._kept = lru_cache(maxsize=KEPT_FILTERS)(self._counts)

    def __call__(self, where: Mapping[str, str]) -> list[ValueCounts]:
        """Return the values of each attribute with their numbers of videos.

        ``where``: the filter in force. The values of an attribute in it are counted as if it were not filtered, so that
        another value can be chosen.
        """
        return self._kept(tuple(sorted(where.items())))

    def _counts(self, where: tuple[tuple[str, str], ...]) -> list[ValueCounts]:
        allowed = self._count(dict(where))
        but = {name: self._count({n: v for n, v in where if n != name}) for name, _ in where}
        return [self._most(name, but.get(name, allowed)[self._own[name]]) for name in self.names]

    def _most(self, name: str, counts: NDArray[np.int64]) -> ValueCounts:
        first = np.argsort(-counts, kind="stable")[:MOST_VALUES]
        values = [(self._listed[self._own[name][n]][1], int(counts[n])) for n in first if counts[n]]
        return ValueCounts(name, values, int((counts > 0).sum()) - len(values))

    def _count(self, where: Mapping[str, str]) -> NDArray[np.int64]:
        total = np.zeros(len(self._pairs), np.int64)
        for segment, (rows, numbers) in zip(self._segments, self._of, strict=True):
            total += np.bincount(numbers[segment.where(where)[rows]], minlength=len(total))
        return total

    def _numbered(self, segment: Segment) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row and the number of each pair of a segment."""
        rows, start = [np.zeros(0, np.int64)], 0
        names, values = [], []
        for chunk in segment.table["attributes"].chunks:
            offsets = np.asarray(chunk.offsets)
            rows.append(start + np.repeat(np.arange(len(chunk)), np.diff(offsets)))
            part = slice(int(offsets[0]), int(offsets[-1]))
            names.append(chunk.keys[part])
            values.append(chunk.items[part])
            start += len(chunk)
        place = np.concatenate(rows)
        name, value = _coded(names), _coded(values)
        here = np.asarray(pc.is_valid(value.indices))
        codes = np.asarray(pc.fill_null(value.indices, 0)).astype(np.int64)
        joined = np.asarray(name.indices).astype(np.int64) * max(1, len(value.dictionary)) + codes
        distinct, numbers = np.unique(joined[here], return_inverse=True)
        pairs = np.array([self._number(name, value, int(pair)) for pair in distinct], np.int64)
        return place[here], pairs[numbers] if len(pairs) else numbers.astype(np.int64)

    def _number(self, name: pa.DictionaryArray, value: pa.DictionaryArray, pair: int) -> int:
        first, second = divmod(pair, len(value.dictionary))
        key = (name.dictionary[first].as_py(), value.dictionary[second].as_py())
        return self._pairs.setdefault(key, len(self._pairs))


def _coded(chunks: list[pa.Array]) -> pa.DictionaryArray:
    whole = pa.chunked_array(chunks, pa.string()).combine_chunks()
    return (
        whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks or [pa.array([], pa.string())])
    ).dictionary_encode()

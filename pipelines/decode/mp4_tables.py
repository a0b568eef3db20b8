"""Read from an MP4's index what FFmpeg's own list of its packets leaves out: when each is shown. Pure functions.

FFmpeg lists the place, size and decoding time of every packet once a file is open, but not the offset from which it
computes the time of display. It comes from the box ``ctts``, which is read here in the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_BYTES: Final = 256 * 2**20
"""A longer index is not read; it would be that of weeks of video."""
FAR: Final = 2**28
"""FFmpeg drops the whole table if an offset is this large."""

Box = tuple[bytes, memoryview]


class UnusualError(Exception):
    """An index that is not read here, because FFmpeg may understand it differently."""


def display_offsets(path: Path, track: int, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how much later than decoded each packet of a track is shown, int64 [n], up to a constant.

    ``track``: its number in the file; ``sizes``: bytes of each packet, int64 [n], as FFmpeg lists them. Raises
    UnusualError unless the file has one plain index, without fragments, that lists these packets in this order.
    """
    table = dict(_once(_table_of(_index(path), track), {b"stsd", b"stsz", b"ctts"}))
    if b"stsd" not in table or b"stsz" not in table or _numbers(table[b"stsd"], 1)[1] != 1:
        raise UnusualError("no plain table of samples")  # with several descriptions, decoding may change midway
    if not np.array_equal(_sizes(table[b"stsz"], len(sizes)), sizes):
        raise UnusualError("other packets than FFmpeg lists")
    return _offsets(table[b"ctts"], len(sizes)) if b"ctts" in table else np.zeros(len(sizes), np.int64)


def _index(path: Path) -> memoryview:
    """Return the content of the only ``moov``."""
    found = None
    with path.open("rb") as file:
        end = path.stat().st_size
        at = 0
        while at + 8 <= end:
            file.seek(at)
            header = file.read(16)
            size, kind = struct.unpack(">I4s", header[:8])
            start = 8
            if size == 1 and len(header) == 16:
                size, start = struct.unpack(">Q", header[8:])[0], 16
            elif size == 0:
                size = end - at
            if size < start or at + size > end:
                raise UnusualError("a box that leads out of the file")
            if kind in (b"moof", b"moov") and (found is not None or kind == b"moof" or size > MOST_BYTES):
                raise UnusualError("fragments, or several indices")
            if kind == b"moov":
                file.seek(at + start)
                found = memoryview(file.read(size - start))
            at += size
    if found is None:
        raise UnusualError("no index")
    return found


def _table_of(index: memoryview, track: int) -> memoryview:
    """Return the content of the sample table of a track."""
    found = None
    for kind, content in _boxes(index):
        if kind == b"mvex":
            raise UnusualError("fragments")
        if kind != b"trak":
            continue
        parts = dict(_once(content, {b"tkhd", b"mdia"}))
        if b"tkhd" not in parts or b"mdia" not in parts:
            raise UnusualError("a track without its parts")
        header = parts[b"tkhd"]
        at = 20 if header and header[0] == 1 else 12
        if int.from_bytes(header[at : at + 4]) != track:
            continue
        if found is not None:
            raise UnusualError("two tracks of one number")
        media = dict(_once(parts[b"mdia"], {b"minf"}))
        found = dict(_once(media.get(b"minf", memoryview(b"")), {b"stbl"})).get(b"stbl")
    if found is None:
        raise UnusualError("no such track")
    return found


def _boxes(content: memoryview) -> Iterator[Box]:
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        if size < 8 or at + size > len(content):
            raise UnusualError("a box that leads out of another")
        yield kind, content[at + 8 : at + size]
        at += size


def _once(content: memoryview, kinds: set[bytes]) -> Iterator[Box]:
    """Yield the boxes of these kinds. Raises UnusualError if there are two of one."""
    seen: set[bytes] = set()
    for kind, inside in _boxes(content):
        if kind in seen:
            raise UnusualError("a box that is there twice")
        if kind in kinds:
            seen.add(kind)
            yield kind, inside


def _numbers(content: memoryview, count: int) -> NDArray[np.int64]:
    """Return the version with flags, and ``count`` 32-bit numbers after it; more bytes may follow."""
    if len(content) < 4 + 4 * count:
        raise UnusualError("a table that is cut off")
    return np.frombuffer(content, ">u4", 1 + count).astype(np.int64)


def _sizes(content: memoryview, count: int) -> NDArray[np.int64]:
    _, each, stated = _numbers(content, 2)
    if stated != count:
        raise UnusualError("another number of packets than FFmpeg lists")
    return np.full(count, each) if each else _numbers(content, 2 + count)[3:]


def _offsets(content: memoryview, count: int) -> NDArray[np.int64]:
    rows = int(_numbers(content, 1)[1])
    if len(content) != 8 + 8 * rows:
        raise UnusualError("a table of offsets of another length than it states")
    table = np.frombuffer(content, ">i4", 2 * rows, offset=8).reshape(rows, 2).astype(np.int64)
    runs, offsets = table[:, 0], table[:, 1]
    if (runs <= 0).any() or runs.sum() != count or (np.abs(offsets) >= FAR).any():
        raise UnusualError("a table of offsets that FFmpeg may read differently")
    return np.repeat(offsets, runs)

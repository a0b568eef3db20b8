"""Ways to damage a video file: each takes its bytes and a seeded generator, and gives other bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

BOXES = (
    *(b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"edts", b"elst", b"mdia", b"mdhd", b"hdlr", b"minf", b"stbl"),
    *(b"stsd", b"avc1", b"avcC", b"hvcC", b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"mdat"),
)
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
HEADER_BYTES = 1024


def flip_bits(data: bytearray, draw: random.Random) -> bytes:
    """Turn over a few bits anywhere, or a good many."""
    for _ in range(draw.choice((1, 8, 64, 400))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def flip_header_bits(data: bytearray, draw: random.Random) -> bytes:
    """Turn over bits at the start of the file."""
    for _ in range(draw.choice((1, 4, 16))):
        data[draw.randrange(min(HEADER_BYTES, len(data)))] ^= 1 << draw.randrange(8)
    return bytes(data)


def truncate(data: bytearray, draw: random.Random) -> bytes:
    """Leave off the end."""
    return bytes(data[: draw.randrange(1, len(data))])


def behead(data: bytearray, draw: random.Random) -> bytes:
    """Leave off the start."""
    return bytes(data[draw.randrange(1, len(data)) // draw.choice((1, 20)) :])


def remove(data: bytearray, draw: random.Random) -> bytes:
    """Take a stretch out."""
    low, high = _stretch(data, draw)
    return bytes(data[:low] + data[high:])


def duplicate(data: bytearray, draw: random.Random) -> bytes:
    """Have a stretch twice."""
    low, high = _stretch(data, draw)
    return bytes(data[:high] + data[low:])


def swap(data: bytearray, draw: random.Random) -> bytes:
    """Exchange two neighbouring stretches."""
    low, high = _stretch(data, draw)
    middle = draw.randint(low, high)
    return bytes(data[:low] + data[middle:high] + data[low:middle] + data[high:])


def zero(data: bytearray, draw: random.Random) -> bytes:
    """Make a stretch zeros, as a hole in a copied file."""
    low, high = _stretch(data, draw)
    return bytes(data[:low] + bytes(high - low) + data[high:])


def insert(data: bytearray, draw: random.Random) -> bytes:
    """Put noise between."""
    at = draw.randrange(len(data))
    return bytes(data[:at] + draw.randbytes(draw.choice((1, 100, 5000))) + data[at:])


def edit_field(data: bytearray, draw: random.Random) -> bytes:
    """Set a field of an MP4 box, its size among them, to an extreme value; of another file, four bytes of its start."""
    value = struct.pack(">I", draw.choice(EXTREMES))
    found = [at for name in BOXES if (at := data.find(name)) >= 4]
    at = draw.choice(found) + draw.choice((-4, 4, 8, 12, 16, 20, 24, 28, 32)) if found else draw.randrange(HEADER_BYTES)
    at = max(0, min(at, len(data) - 4))
    data[at : at + 4] = value
    return bytes(data)


def _stretch(data: bytearray, draw: random.Random) -> tuple[int, int]:
    low = draw.randrange(len(data))
    return low, min(len(data), low + draw.choice((1, 188, 1000, len(data) // 4)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    flip_bits,
    flip_header_bits,
    truncate,
    behead,
    remove,
    duplicate,
    swap,
    zero,
    insert,
    edit_field,
)

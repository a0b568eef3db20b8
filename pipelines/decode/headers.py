"""Tell from the first bytes of a packet if its frame is shown, never shown, or doubtful. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

HEAD_BYTES: Final = 4096
"""A frame's header is within this many bytes of its packet, after any parameters and messages."""
HOLE: Final = bytes(8)
"""No coded H.264 or HEVC data has three zeros in a row; more are padding, or a hole in the file."""
LONG_HOLE: Final = bytes(32)

EACH_SHOWN: Final = frozenset(
    {"mjpeg", "prores", "dnxhd", "ffv1", "dvvideo", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "png", "v210", "gif"}
)
"""Codecs in which every packet gives a frame."""


class Shows(Enum):
    """The effect of decoding a packet in order: it gives a frame, gives none, or may do either."""

    FRAME = 1
    NOTHING = 2
    DOUBTFUL = 3


Reader = Callable[[bytes], Shows]


def reader(codec: str, extradata: bytes | None, macroblocks: int) -> Reader | None:
    """Make the function that tells if a codec's packet shows a frame; None if packets do not tell.

    ``extradata``: the decoder's parameters from the container; ``macroblocks``: number of 16 x 16 blocks in a frame.
    """
    if codec in EACH_SHOWN:
        return lambda data: Shows.FRAME  # noqa: ARG005
    if codec in ("h264", "hevc"):
        return _nal_reader(codec, extradata or b"")
    if codec in ("mpeg1video", "mpeg2video"):
        return _mpeg
    if codec == "mpeg4":
        # An MPEG-4 frame spends at least a bit on each macroblock; a shorter packet means that nothing is shown.
        least = (macroblocks + 128) // 8
        return lambda data: Shows.FRAME if len(data) >= least and LONG_HOLE not in data else Shows.DOUBTFUL
    return {"vp8": _vp8, "vp9": _vp9, "libdav1d": _av1, "av1": _av1, "libaom-av1": _av1}.get(codec)


def _nal_reader(codec: str, extradata: bytes) -> Reader:
    """Read the first picture of a packet; where units have stated lengths, also check that all of them add up."""
    lengths = unit_lengths(codec, extradata)
    shows_of = [_h264_picture(header) if codec == "h264" else _hevc_picture(header) for header in range(256)]

    def read(data: bytes) -> Shows:
        if HOLE in data or (codec == "hevc" and data[-2:] in (b"\x48\x01", b"\x4a\x01")):
            return Shows.DOUBTFUL  # frames after the end of an HEVC sequence may be dropped
        found = None
        for at in _units(data, lengths):
            found = found or shows_of[data[at]]
            if found is not None and not lengths:
                break
        return found or Shows.DOUBTFUL

    def read_lengths(data: bytes) -> Shows:
        size = len(data)
        if lengths < size and int.from_bytes(data[:lengths]) + lengths == size and HOLE not in data:
            return shows_of[data[lengths]] or Shows.DOUBTFUL  # one unit, as most packets are
        return read(data)

    return read_lengths if lengths and codec == "h264" else read


def _units(data: bytes, lengths: int) -> Iterator[int]:
    """Yield where a packet's units start: near its start without ``lengths``, none if the lengths do not add up."""
    if lengths:
        found, at = [], 0
        while at + lengths < len(data):
            found.append(at + lengths)
            at += lengths + int.from_bytes(data[at : at + lengths])
        yield from found if at == len(data) else ()
        return
    at = data.find(b"\0\0\1") + 3
    while 3 <= at < len(data):
        yield at
        at = data.find(b"\0\0\1", at, HEAD_BYTES) + 3


def starts_slowly(data: bytes, lengths: int) -> bool:
    """Return True if decoding from an H.264 keyframe gives correct pictures only some frames later.

    ``lengths``: the result of ``unit_lengths``.
    """
    return bool(recovers_after(data, lengths))


def recovers_after(data: bytes, lengths: int) -> bool | None:
    """Read the message "recovery point" (6): True for a count above 0, False for 0; None without it or in an IDR."""
    for at in _units(data, lengths):
        if data[at] & 0x1F == 5:
            return None
        message = at + 1
        while data[at] & 0x1F == 6 and message + 2 < len(data) and data[message] != 0x80:
            kind, message = _ff_coded(data, message)
            size, message = _ff_coded(data, message)
            if kind == 6 and message < len(data):
                return not data[message] & 0x80
            message += size
    return None


def _ff_coded(data: bytes, at: int) -> tuple[int, int]:
    """Read a number coded as a sum of bytes, the last below 255; return it and the position after it."""
    value = 0
    while at < len(data) and data[at] == 0xFF:
        value, at = value + 0xFF, at + 1
    return value + (data[at] if at < len(data) else 0), at + 1


def unit_lengths(codec: str, extradata: bytes) -> int:
    """Return the bytes of the length field before each unit; 0 if start codes separate the units."""
    at = 4 if codec == "h264" else 21
    if len(extradata) <= at or extradata[:3] == b"\0\0\1" or extradata[:4] == b"\0\0\0\1":
        return 0
    return (extradata[at] & 3) + 1


def _h264_picture(header: int) -> Shows | None:
    return Shows.FRAME if header & 0x1F in (1, 2, 5) else None


def _hevc_picture(header: int) -> Shows | None:
    kind = header >> 1 & 0x3F
    if kind >= 32:
        return None
    return Shows.DOUBTFUL if 16 <= kind <= 18 else Shows.FRAME  # frames before a broken link are dropped


def _mpeg(data: bytes) -> Shows:
    if data.find(b"\0\0\1\0", 0, HEAD_BYTES) < 0 or LONG_HOLE in data:
        return Shows.DOUBTFUL
    return Shows.FRAME


def _vp8(data: bytes) -> Shows:
    if LONG_HOLE in data:
        return Shows.DOUBTFUL
    return Shows.FRAME if data[0] & 0x10 else Shows.NOTHING


def _vp9(data: bytes) -> Shows:
    """Count the shown frames of a packet, which may be a superframe of several."""
    if LONG_HOLE in data:
        return Shows.DOUBTFUL
    shown, at = 0, 0
    for size in _vp9_sizes(data):
        shown += _vp9_shown(data[at]) if at < len(data) else 0
        at += size
    return _counted(shown)


def _vp9_sizes(data: bytes) -> list[int]:
    mark = data[-1]
    if mark & 0xE0 == 0xC0:
        count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
        index = data[-2 - count * width :]
        if len(index) == 2 + count * width and index[0] == mark:
            return [int.from_bytes(index[1 + i * width : 1 + (i + 1) * width], "little") for i in range(count)]
    return [len(data)]


def _vp9_shown(first: int) -> bool:
    """Tell from a frame's first byte if it is shown: marker, profile, show_existing_frame, frame_type, show_frame."""
    shift = 1 if first & 0x30 == 0x30 else 0  # profile 3 has a reserved bit
    return bool(first & (0x08 >> shift) or first & (0x02 >> shift))


def _av1(data: bytes) -> Shows:
    """Count the shown frames of a temporal unit."""
    if LONG_HOLE in data:
        return Shows.DOUBTFUL
    shown, at = 0, 0
    while at < len(data):
        header = data[at]
        kind, at = header >> 3 & 15, at + 1 + (header >> 2 & 1)
        size, at = _leb128(data, at) if header & 2 else (len(data) - at, at)
        if kind in (3, 6) and at < len(data):  # show_existing_frame, or show_frame after the two bits of its type
            shown += bool(data[at] & 0x90)
        at += size
    return _counted(shown) if at == len(data) else Shows.DOUBTFUL


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << 7 * i
        at += 1
        if not data[at - 1] & 0x80:
            break
    return value, at


def _counted(shown: int) -> Shows:
    return {0: Shows.NOTHING, 1: Shows.FRAME}.get(shown, Shows.DOUBTFUL)

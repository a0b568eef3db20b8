"""Make the record of an MP4's packets from its index and its bytes, without demuxing packet by packet.

The result is that of ``planned.read_packets`` in a fraction of the time, or None wherever it might not be. FFmpeg's own
list of packets gives their places, sizes and decoding times, the file's table the times of display, and the bytes of
every packet tell, as they tell FFmpeg and ``headers.py``, if it gives a frame and if decoding can start there. Each
packet that is decoded is compared with its record again (``packet_plan.FromFile``).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.clip_job import ClipJob
from pipelines.decode.headers import HOLE, recovers_after, unit_lengths
from pipelines.decode.mp4_tables import UnusualError, display_offsets
from pipelines.decode.packet_plan import LOOK_BACK
from pipelines.decode.packets import DISCARD, NO_START, Packet, Packets
from pipelines.decode.track import Track

FEWEST: Final = 1500
"""Fewer packets are read through as quickly, and are then in memory."""
COLUMNS: Final = attrgetter("pos", "size", "timestamp", "flags")
DISCARDED: Final = 2
"""FFmpeg's flag of a listed packet that an edit list hides."""
WINDOW: Final = 4 * 2**20
"""Bytes of the file that are examined at once."""
MOST_UNITS: Final = 32
"""A packet of more units is unusual."""
SLICE, IDR, MESSAGES, SEQUENCE, PICTURE = 1, 5, 6, 7, 8
"""Kinds of units: pictures, messages and parameters."""

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Kinds(NamedTuple):
    """What packets hold, bool [n] each.

    ``idr``: a picture that refers to none before; ``recovers``: a message that decoding can start here, and ``slow``:
    that its pictures are right only later; ``intra``: another picture without references; ``parameters``: new ones.
    """

    idr: Bools
    recovers: Bools
    slow: Bools
    intra: Bools
    parameters: Bools


def list_packets(job: ClipJob, track: Track) -> Packets | None:
    """Return the record of a track's packets from the file's index; None if only demuxing tells them.

    ``track`` has then read its first packet; after None it may have, too.
    """
    context, stream = track.context, track.stream
    lengths = unit_lengths("h264", context.extradata or b"") if context.name == "h264" else 0
    if not lengths or track.container.format.name.split(",")[0] != "mov" or not stream.frames:
        return None
    entries = stream.index_entries
    if not FEWEST <= len(entries) <= job.limits.max_packets:
        return None
    listed = np.fromiter(chain.from_iterable(map(COLUMNS, entries)), np.int64, 4 * len(entries))
    pos, size, dts, flags = listed.reshape(-1, 4).T.copy()
    try:
        pts = dts + display_offsets(job.path, stream.id, size)
        kinds = _kinds(job, pos, size, lengths)
        first = next(track.read(job.budget), None)
        if first is None or first.pts is None or track.damaged:
            return None
        pts += first.pts - pts[0]
        keys = kinds.idr | kinds.recovers
        if (kinds.intra & ~keys).any():
            keys |= kinds.intra & _are_keys(job, track, kinds, int(np.flatnonzero(kinds.intra & ~keys)[0]), pts, pos)
    except (UnusualError, OSError):
        return None
    hidden = (np.where(flags & DISCARDED, DISCARD, 0) | np.where(kinds.slow, NO_START, 0)).astype(np.int64)
    packets = Packets.of_columns(pts, dts, pos, size, keys, hidden)
    return packets if packets.holds(0, Packet.of(first)) else None


def _are_keys(job: ClipJob, track: Track, kinds: Kinds, at: int, pts: Ints, pos: Ints) -> bool:
    """Read packet ``at`` to see if FFmpeg takes such a picture for a keyframe: it does if the stream has one reference.

    Raises UnusualError if the parameters that say so may change.
    """
    stated: bytes = track.context.extradata
    behind = 8 + int.from_bytes(stated[6:8]) if len(stated) > 8 else 0
    if not behind or stated[5] & 31 != 1 or stated[behind : behind + 1] != b"\1" or kinds.parameters.any():
        raise UnusualError("several sets of parameters")
    if track.seek(int(pts[at])):
        for count, packet in enumerate(track.read(job.budget)):
            if packet.pos == pos[at]:
                return bool(packet.is_keyframe)
            if count > LOOK_BACK:
                break
    raise UnusualError("a packet that cannot be reached")


def _kinds(job: ClipJob, pos: Ints, size: Ints, lengths: int) -> Kinds:
    """Examine the bytes of all packets.

    Raises UnusualError unless the packets follow one another in the file and each certainly gives a frame.
    """
    if pos[0] < 0 or (pos[1:] < pos[:-1] + size[:-1]).any() or (size <= lengths + 1).any():
        raise UnusualError("packets out of order")
    found = []
    with job.path.open("rb") as file:
        for start, stop in _windows(pos + size):
            job.budget.check()
            file.seek(int(pos[start]))
            wanted = int(pos[stop - 1] + size[stop - 1] - pos[start])
            content = np.frombuffer(file.read(wanted), np.uint8)
            if len(content) < wanted:
                raise UnusualError("packets behind the end of the file")
            found.append(_examined(content, pos[start:stop] - pos[start], size[start:stop], lengths))
    return Kinds(*map(np.concatenate, zip(*found, strict=True)))


def _windows(ends: Ints) -> Iterator[tuple[int, int]]:
    """Yield runs of packets [start, stop) of about WINDOW bytes, of which each holds at least one packet."""
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else ends[0]
        stop = max(start + 1, int(np.searchsorted(ends, before + WINDOW, side="right")))
        yield start, stop
        start = stop


def _examined(content: Bytes, at: Ints, size: Ints, lengths: int) -> Kinds:
    """Examine the packets at ``at``, all at once, unit by unit."""
    end, here = at + size, at.copy()
    first = np.zeros(len(at), np.uint8)
    """The kind of each packet's first picture, 0 before it is found."""
    intra, messages, parameters = (np.zeros(len(at), bool) for _ in range(3))
    left = np.arange(len(at))
    for _ in range(MOST_UNITS):
        unit, length = here[left], np.zeros(len(left), np.int64)
        for byte in range(lengths):
            length = length << 8 | content[unit + byte]
        header = unit + lengths
        kind = content[header] & 31
        begins = ((kind == SLICE) | (kind == IDR)) & (first[left] == 0)
        data = content[np.minimum(header + 1, len(content) - 1)]
        if (kind == 2).any() or (data[begins] < 0x80).any():
            raise UnusualError("a picture in parts, or not from its start")
        intra[left[begins]] = ((data & 0xF0 == 0xB0) | (data == 0x88))[begins]
        first[left[begins]] = kind[begins]
        messages[left] |= (kind == MESSAGES) & (first[left] == 0)
        parameters[left] |= (kind == SEQUENCE) | (kind == PICTURE)
        here[left] = header + length
        left = left[here[left] + lengths < end[left]]
        if not len(left):
            break
    if (here != end).any() or (first == 0).any() or _has_hole(content, at, end):
        raise UnusualError("packets that may give no frame")
    recovers, slow = np.zeros(len(at), bool), np.zeros(len(at), bool)
    for i in np.flatnonzero(messages & (first != IDR)).tolist():
        after = recovers_after(content[at[i] : end[i]].tobytes(), lengths)
        recovers[i], slow[i] = after is not None, bool(after)
    return Kinds(first == IDR, recovers, slow, intra, parameters)


def _has_hole(content: Bytes, at: Ints, end: Ints) -> bool:
    """Return True if a packet holds a hole, and so four zeros in a row at a place divisible by four."""
    zeros = 4 * np.flatnonzero(content[: len(content) // 4 * 4].view(np.uint32) == 0)
    packet = np.searchsorted(at, zeros, side="right") - 1
    suspects: list[Any] = np.unique(packet[zeros + 4 <= end[packet]]).tolist()
    return any(HOLE in content[at[i] : end[i]].tobytes() for i in suspects)

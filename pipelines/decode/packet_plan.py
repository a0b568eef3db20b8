"""The packet plan: find the packets that give the wanted frames, and feed them to the decoder."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.errors import Budget
from pipelines.decode.packets import NONE, Packet, Packets
from pipelines.decode.track import Track

SETTLED: Final = 12
"""Number of decoded frames after a doubtful place that end the doubt."""
GAP: Final = 1.75
FEW_GAPS: Final = 0.2
FEWEST: Final = 4
"""A gap in a steady track is GAP times the usual one; with more than FEW_GAPS of them, the track is not steady."""
JUMP: Final = 4
JUMP_BYTES: Final = 1024
FEW_JUMPS: Final = 0.05
"""Headers and sound between two packets are seldom much longer than usual; if they often are, that is usual too."""
MAX_REORDER = 64
"""No codec shows a packet further than this from where it is stored; pts that claim so are wrong."""


@dataclass
class Segment:
    """Packets ``start`` to ``stop`` (inclusive, in file order) to feed in one go; ``wanted`` are those to keep."""

    start: int
    stop: int
    wanted: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Display:
    """The shown packets in order of display: int64 [n] positions and pts, rising.

    ``repeated``: bool [n], True if another shown packet has the same pts; the first in the file is listed.
    """

    order: NDArray[np.int64]
    pts: NDArray[np.int64]
    repeated: NDArray[np.bool_]


def display(packets: Packets) -> Display | None:
    """Order the packets by pts; return None if pts do not tell the order.

    Packets that show nothing or that an edit list discards are left out, and so are all but the first of equal pts.
    Order by pts means nothing if any pts is missing, if most are repeated, or if packets are shown far from where
    they are stored (the clock restarts).
    """
    pts, shown = packets.pts, packets.shown
    if not len(shown) or (pts == NONE).any():
        return None
    places = np.argsort(pts[shown], kind="stable")
    if np.abs(places - np.arange(len(shown))).max() > MAX_REORDER:
        return None
    unique, first, counts = np.unique(pts[shown], return_index=True, return_counts=True)
    if 2 * len(unique) < len(shown):
        return None
    return Display(shown[first], unique, counts > 1)


def segments(packets: Packets, wanted: Sequence[int]) -> list[Segment]:
    """Find the stretches of packets that produce the frames of the ``wanted`` positions.

    Each starts at the last keyframe shown no later than the wanted frame, not at the last one before it in the
    file: frames shown before an open keyframe but stored after it need the previous keyframe. Overlaps are merged.
    """
    pts, keys = packets.pts, packets.keys.tolist()
    merged: list[Segment] = []
    for start, stop in sorted((_start(pts, keys, i), i) for i in wanted):
        if merged and start <= merged[-1].stop:
            merged[-1].stop = max(merged[-1].stop, stop)
        else:
            merged.append(Segment(start, stop))
        merged[-1].wanted.add(stop)
    return merged


def _start(pts: NDArray[np.int64], keys: Sequence[int], wanted: int) -> int:
    for position in range(bisect_right(keys, wanted) - 1, -1, -1):
        if pts[keys[position]] <= pts[wanted]:
            return keys[position]
    return 0


def has_odd_start(packets: Packets) -> bool:
    """Return True if the first packets may show nothing: no keyframe first, or frames shown before it follow it."""
    pts, keys, shown = packets.pts, packets.keys, packets.shown
    if not len(keys) or not len(shown):
        return False
    return bool(keys[0] > 0 or (pts[shown] < pts[keys[0]]).any())


def head(packets: Packets, settled: int = SETTLED) -> Segment:
    """Return the segment from the start to ``settled`` packets after the first keyframe."""
    keys = packets.keys
    stop = min(len(packets) - 1, int(keys[0]) + settled) if len(keys) else len(packets) - 1
    return Segment(0, stop, set(range(stop + 1)))


def gaps(order: Display) -> list[int]:
    """Return the positions of packets after a gap in a track with few gaps: something may be missing there."""
    steps = np.diff(order.pts)
    if not len(steps):
        return []
    wide = steps > GAP * np.median(steps)
    return sorted(order.order[1:][wide].tolist()) if wide.sum() <= max(FEWEST, FEW_GAPS * len(steps)) else []


def jumps(packets: Packets) -> list[int]:
    """Return the positions of packets before which the file has an unusually long stretch without packets."""
    places = packets.places
    if len(places) < 3 or (places == NONE).any():
        return []
    between = np.diff(places) - packets.sizes[:-1]
    wide = between > JUMP_BYTES + JUMP * np.quantile(between, 1 - FEW_JUMPS)
    return (np.flatnonzero(wide) + 1).tolist() if wide.sum() <= FEW_JUMPS * len(between) else []


def doubtful(packets: Packets, doubts: Sequence[int]) -> list[Segment]:
    """Find the stretches to decode completely to see which frames come from doubtful packets.

    Each runs from the keyframe before the doubt to some packets after the next keyframe.
    """
    keys = packets.keys.tolist()
    merged: list[Segment] = []
    for doubt in doubts:
        start = keys[max(0, bisect_left(keys, doubt) - 1)] if keys else 0
        behind = bisect_right(keys, doubt)
        stop = keys[behind] + SETTLED if behind < len(keys) else len(packets) - 1
        start, stop = min(start, doubt), min(stop, len(packets) - 1)
        if merged and start <= merged[-1].stop:
            merged[-1].stop = max(merged[-1].stop, stop)
        else:
            merged.append(Segment(start, stop))
    for segment in merged:
        segment.wanted = set(range(segment.start, segment.stop + 1))
    return merged


# Codecs whose unreferenced frames can be skipped. Not mpeg4: AVI puts two of its frames into one packet.
SKIPPABLE: Final = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})
READ_ON: Final = 16
"""The file is read on, without seeking, to a segment that starts within this many packets."""
LOOK_BACK: Final = 4096
"""A seek may end this many packets early; the file is read on from there."""

Stretch = Callable[[Segment], Iterator[Any]]
"""Yields all packets of a segment, in file order; segments are requested in that order too."""


class Misaligned(Exception):  # noqa: N818 - says what happened
    """The packet that was reached is not the one in the plan."""


def from_memory(kept: Sequence[Any]) -> Stretch:
    """Take packets from the list of all packets."""
    return lambda segment: iter(kept[segment.start : segment.stop + 1])


class FromFile:
    """Reads packets from a file again and compares each with its record from the first reading.

    ``seeks``: seek to each segment's keyframe; otherwise read the file through from its start. Raises Misaligned if a
    packet differs (pts, place, size or flags), so a wrong packet is never decoded.
    """

    def __init__(self, track: Track, packets: Packets, budget: Budget, *, seeks: bool) -> None:
        self._track, self._packets, self._budget, self._seeks = track, packets, budget, seeks
        self._at = 0
        self._coming: Iterator[Any] | None = None if seeks else track.read(budget)

    def __call__(self, segment: Segment) -> Iterator[Any]:
        """Yield the packets of a segment."""
        if self._coming is None or (self._seeks and not 0 <= segment.start - self._at <= READ_ON):
            self._coming, self._at = self._sought(segment.start)
        while self._at <= segment.stop:
            packet = next(self._coming, None)
            if packet is None or not self._packets.holds(self._at, Packet.of(packet)):
                raise Misaligned
            self._at += 1
            if self._at > segment.start:
                yield packet

    def _sought(self, start: int) -> tuple[Iterator[Any], int]:
        """Seek to the packet ``start``, or a little before; return the packets from there and the first position."""
        wanted = self._packets[start]
        # Some demuxers seek by pts, some by dts, whichever you ask for.
        for moment in dict.fromkeys((wanted.pts, wanted.dts)):
            if moment is None or not self._track.seek(moment):
                continue
            coming = self._track.read(self._budget)
            first = next(coming, None)
            if first is None:
                continue
            at = self._packets.find(Packet.of(first), max(0, start - LOOK_BACK), start + 1)
            if at is not None:
                return chain([first], coming), at
        raise Misaligned


def feed(
    track: Track, plan: Sequence[Segment], stretch: Stretch, budget: Budget, take: Callable[[Any, Segment], None]
) -> int:
    """Decode the packets of a plan's segments and pass every decoded frame to ``take`` with its segment.

    Returns the number of finished segments: fewer than all if the file is misaligned.
    """
    for number, segment in enumerate(plan):
        try:
            _feed(track, segment, stretch(segment), budget, take)
        except Misaligned:
            track.forget()
            return number
    return len(plan)


def _feed(
    track: Track, segment: Segment, packets: Iterator[Any], budget: Budget, take: Callable[[Any, Segment], None]
) -> None:
    skips = track.context.name in SKIPPABLE
    for position, packet in enumerate(packets, segment.start):
        budget.check()
        if skips:
            track.context.skip_frame = "DEFAULT" if position in segment.wanted else "NONREF"
        for frame in track.decode(packet):
            take(frame, segment)
    for frame in track.decode(None):
        take(frame, segment)
    track.forget()

"""Getting a plan's packets to the decoder: from memory, by seeking, or by reading the file through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from pipelines.decode.errors import Budget
from pipelines.decode.packets import Packet, Packets
from pipelines.decode.plan import Segment
from pipelines.decode.source import Track

# Codecs whose unreferenced frames can be left out. Not mpeg4: AVI packs two of its frames into a packet.
SKIPPABLE: Final = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})
READ_ON: Final = 16
"""A segment that starts within so many packets is read on to, not sought."""
LOOK_BACK: Final = 4096
"""A seek may end so many packets early; from there it is read on."""

Stretch = Callable[[Segment], Iterator[Any]]
"""Gives the packets of a segment, all of them, in file order; segments are asked for in that order too."""


class Misaligned(Exception):  # noqa: N818 - says what happened
    """The packet that was reached is not the one that the plan means."""


def from_memory(kept: Sequence[Any]) -> Stretch:
    """Take packets from the list of all."""
    return lambda segment: iter(kept[segment.start : segment.stop + 1])


class FromFile:
    """Reads packets from a file again, each compared with what was noted of it the first time.

    ``seeks``: go to each segment's keyframe, else read the file through from its start. Raises Misaligned where a
    packet is another one (pts, place, size or flags), so no other packet is ever decoded in its place.
    """

    def __init__(self, track: Track, packets: Packets, budget: Budget, *, seeks: bool) -> None:
        self._track, self._packets, self._budget, self._seeks = track, packets, budget, seeks
        self._at = 0
        self._coming: Iterator[Any] | None = None if seeks else track.read(budget)

    def __call__(self, segment: Segment) -> Iterator[Any]:
        """Give the packets of a segment."""
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
        """Seek to the packet ``start``, or a little before; what comes then, and its position."""
        wanted = self._packets[start]
        # Some demuxers seek by pts, some by dts, whatever they are asked for.
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
    """Decode the packets of a plan's segments, handing on every frame that comes out with its segment.

    Returns how many segments were done: fewer than all when the file is misaligned.
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

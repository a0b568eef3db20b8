"""The packet plan: which packets have to be decoded to get the wanted frames, and no others. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.decode.source import Packet


@dataclass
class Segment:
    """Packets ``start`` to ``stop`` (included, in file order) to feed in one go; ``wanted`` are the ones asked for."""

    start: int
    stop: int
    wanted: set[int] = field(default_factory=set)


def display_order(packets: Sequence[Packet]) -> list[int] | None:
    """List the positions of the packets that are shown, in the order in which they are; None when pts do not tell.

    Left out: packets an edit list discards, and all but the first of equal pts. With a pts missing anywhere, or
    most of them repeated, order by pts means nothing.
    """
    if any(packet.pts is None for packet in packets):
        return None
    shown = [i for i, packet in enumerate(packets) if not packet.discard]
    first_of: dict[int, int] = {}
    for i in shown:
        first_of.setdefault(_pts(packets[i]), i)
    if 2 * len(first_of) < len(shown):
        return None
    return [first_of[pts] for pts in sorted(first_of)]


def segments(packets: Sequence[Packet], wanted: Sequence[int]) -> list[Segment]:
    """Cut out the stretches of packets that produce the frames of the ``wanted`` positions.

    Each starts at the last keyframe shown no later than the wanted frame, not at the last one before it in the
    file: frames shown before an open keyframe but stored behind it need the keyframe before. Overlaps are merged.
    """
    keys = [i for i, packet in enumerate(packets) if packet.key]
    merged: list[Segment] = []
    for start, stop in sorted((_start(packets, keys, i), i) for i in wanted):
        if merged and start <= merged[-1].stop:
            merged[-1].stop = max(merged[-1].stop, stop)
        else:
            merged.append(Segment(start, stop))
        merged[-1].wanted.add(stop)
    return merged


def _start(packets: Sequence[Packet], keys: Sequence[int], wanted: int) -> int:
    for position in range(bisect_right(keys, wanted) - 1, -1, -1):
        if _pts(packets[keys[position]]) <= _pts(packets[wanted]):
            return keys[position]
    return 0


def _pts(packet: Packet) -> int:
    if packet.pts is None:
        raise ValueError("the plan needs a pts on every packet")
    return packet.pts

"""The packet plan: which packets have to be decoded to get the wanted frames, and no others. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.packets import NONE, Packets

SETTLED: Final = 12
"""So many frames that come out behind a doubtful place end the doubt."""
GAP: Final = 1.75
FEW_GAPS: Final = 0.2
FEWEST: Final = 4
"""A gap in a steady track is this many times the usual one; more than this share of them, and it is not steady."""
JUMP: Final = 4
JUMP_BYTES: Final = 1024
FEW_JUMPS: Final = 0.05
"""What lies between two packets is headers and sound, and seldom much longer than usual; more often, it is usual."""
MAX_REORDER = 64
"""No codec shows a packet further than this from where it is stored; pts that say so are wrong."""


@dataclass
class Segment:
    """Packets ``start`` to ``stop`` (included, in file order) to feed in one go; ``wanted`` are the ones asked for."""

    start: int
    stop: int
    wanted: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Display:
    """The packets that are shown, in the order in which they are: int64 [n] positions and pts, rising.

    ``repeated``: [n] whether another shown packet has the same pts; the first in the file is listed.
    """

    order: NDArray[np.int64]
    pts: NDArray[np.int64]
    repeated: NDArray[np.bool_]


def display(packets: Packets) -> Display | None:
    """Order the packets by pts; None when pts do not tell.

    Left out: packets that show nothing or that an edit list discards, and all but the first of equal pts. With a pts
    missing anywhere, most of them repeated, or packets shown far from where they are stored (the clock starts anew),
    order by pts means nothing.
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
    """Cut out the stretches of packets that produce the frames of the ``wanted`` positions.

    Each starts at the last keyframe shown no later than the wanted frame, not at the last one before it in the
    file: frames shown before an open keyframe but stored behind it need the keyframe before. Overlaps are merged.
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
    """Whether the first packets may show nothing: no keyframe first, or frames shown before it but stored behind it."""
    pts, keys, shown = packets.pts, packets.keys, packets.shown
    if not len(keys) or not len(shown):
        return False
    return bool(keys[0] > 0 or (pts[shown] < pts[keys[0]]).any())


def head(packets: Packets, settled: int = SETTLED) -> Segment:
    """Everything up to ``settled`` packets behind the first keyframe."""
    keys = packets.keys
    stop = min(len(packets) - 1, int(keys[0]) + settled) if len(keys) else len(packets) - 1
    return Segment(0, stop, set(range(stop + 1)))


def gaps(order: Display) -> list[int]:
    """Positions of the packets behind a gap in a track that has few: something may be missing there."""
    steps = np.diff(order.pts)
    if not len(steps):
        return []
    wide = steps > GAP * np.median(steps)
    return sorted(order.order[1:][wide].tolist()) if wide.sum() <= max(FEWEST, FEW_GAPS * len(steps)) else []


def jumps(packets: Packets) -> list[int]:
    """Positions of the packets behind a stretch of the file that is far longer than others between two packets."""
    places = packets.places
    if len(places) < 3 or (places == NONE).any():
        return []
    between = np.diff(places) - packets.sizes[:-1]
    wide = between > JUMP_BYTES + JUMP * np.quantile(between, 1 - FEW_JUMPS)
    return (np.flatnonzero(wide) + 1).tolist() if wide.sum() <= FEW_JUMPS * len(between) else []


def doubtful(packets: Packets, doubts: Sequence[int]) -> list[Segment]:
    """Cut out what has to be decoded whole to see which frames come of doubtful packets.

    From the keyframe before each to some packets behind the next keyframe.
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

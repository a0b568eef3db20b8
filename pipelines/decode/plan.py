"""The packet plan: which packets have to be decoded to get the wanted frames, and no others. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.packets import NONE, Packets

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

    Left out: packets an edit list discards, and all but the first of equal pts. With a pts missing anywhere, most of
    them repeated, or packets shown far from where they are stored (the clock starts anew), order by pts means
    nothing.
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

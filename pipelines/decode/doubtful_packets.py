"""Find out which packets give a frame: decode the doubtful ones, and watch the others while they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from pipelines.decode.clip_job import ClipJob
from pipelines.decode.packet_plan import (
    SETTLED,
    SKIPPABLE,
    Display,
    Segment,
    display,
    doubtful,
    gaps,
    has_odd_start,
    head,
    jumps,
)
from pipelines.decode.packets import Packets
from pipelines.decode.track import Track

UNLISTED: Final = ("matroska", "flv", "ogg", "nut")
"""Containers whose demuxer resumes after damage without reporting it, and that state each packet's position."""
FIELDS: Final = ("mpegts", "mpeg", "h264")
"""Containers in which each field of an interlaced H.264 frame may be a packet of its own."""

Feed = Callable[[Sequence[Segment], Callable[[Any, Segment], None]], None]
"""Decodes the packets of a plan and passes every decoded frame on with its segment."""


def certain(job: ClipJob, track: Track, packets: Packets, feed: Feed) -> Display | None:
    """Order the frames of a track, hiding packets that give none; return None if packets do not tell the frames.

    Doubtful packets are decoded: the start, if it is odd, and the surroundings of damage.
    """
    order = display(packets)
    if order is None or not len(packets.keys):
        return None
    kind = track.container.format.name.split(",")[0]
    doubts = {*packets.doubts, *gaps(order)}
    if kind in UNLISTED:
        doubts |= set(jumps(packets))
    if track.damaged or kind == "mpeg":  # the last packet may be incomplete
        doubts.add(len(packets) - 1)
    if has_odd_start(packets) and not settle_head(packets, feed):
        return None
    plan = doubtful(packets, sorted(doubts))
    if 2 * sum(segment.stop + 1 - segment.start for segment in plan) > len(packets):
        return None
    for segment in plan:
        came = _decoded(segment, feed)
        hidden = _hidden(packets, segment, came, at_head=False) if came else None
        inside = [doubt for doubt in doubts if segment.start <= doubt <= segment.stop]
        if not came or hidden is None or (packets.pts[inside] < came[0]).any():
            return None
        packets.hide(hidden)
    return None if 2 * job.corrupt > len(packets) else display(packets)


def has_fields(track: Track, frame: Any) -> bool:
    """Return True if each field of a frame like this one may be a separate packet."""
    container = track.container.format.name.split(",")[0]
    return bool(frame.interlaced_frame and container in FIELDS and track.context.name == "h264")


def settle_head(packets: Packets, feed: Feed) -> bool:
    """Hide the packets before the first decoded frame; return False if later packets give no frame either."""
    for settled in (SETTLED, 32 * SETTLED, len(packets)):
        segment = head(packets, settled)
        came = _decoded(segment, feed)
        if came is None:
            return False
        hidden = _hidden(packets, segment, came, at_head=True)
        if hidden is not None:
            packets.hide(hidden)
            return True
        if segment.stop == len(packets) - 1:
            break
    return False


def _decoded(segment: Segment, feed: Feed) -> list[int] | None:
    """Return the pts of a stretch's frames in output order; None if one is missing or they decrease anywhere."""
    came: list[int | None] = []
    feed([segment], lambda frame, _: came.append(frame.pts))
    known = [pts for pts in came if pts is not None]
    if len(known) < len(came) or any(a > b for a, b in pairwise(known)):
        return None
    return known


def _hidden(packets: Packets, segment: Segment, came: Sequence[int], *, at_head: bool) -> list[int] | None:
    """Return the positions of packets that gave no frame; None if the doubt reaches the end, or frames are odd."""
    pts, shown = packets.pts, packets.shown
    inside = shown[(shown >= segment.start) & (shown <= segment.stop)]
    inside = inside[np.argsort(pts[inside], kind="stable")]
    if not came or not set(came) <= set(pts[inside].tolist()):
        return None
    if not at_head:  # frames shown earlier may need packets before the stretch
        inside = inside[pts[inside] >= came[0]]
    lost = ~np.isin(pts[inside], came)
    if segment.stop < len(packets) - 1 and lost[-SETTLED // 2 :].any():
        return None
    hidden = inside[lost]
    if at_head and (pts[hidden] > came[0]).any():
        return None
    return [int(position) for position in hidden]


class Watch:
    """Checks the decoder's output against the plan: ``fine`` as long as they agree.

    ``fields``: True if a frame may have been two packets.
    """

    def __init__(self, track: Track, packets: Packets) -> None:
        self.fine = True
        self.fields = False
        self._track = track
        self._every = track.context.name not in SKIPPABLE
        self._packets = packets
        self._segment: Segment | None = None
        self._came: list[int] = []

    def take(self, frame: Any, segment: Segment) -> None:
        """Check a frame."""
        if segment is not self._segment:
            self.finish()
            self._segment, self._came = segment, []
            self.fields = self.fields or has_fields(self._track, frame)
        if frame.pts is None or (self._came and frame.pts < self._came[-1]):
            self.fine = False
        else:
            self._came.append(frame.pts)

    def finish(self) -> bool:
        """Check the end of a segment; return True if everything was fine so far."""
        if self._segment is not None and self._every and self.fine:
            self.fine = not _hidden(self._packets, self._segment, self._came, at_head=False)
        return self.fine

"""Decode only the packets that the wanted frames need, if it is certain which frames the packets give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.clip_job import ClipJob, DecodedVideo, Facts, Kept, Timeline
from pipelines.decode.doubtful_packets import Watch, certain, settle_head
from pipelines.decode.errors import DecodeError
from pipelines.decode.headers import reader, unit_lengths
from pipelines.decode.in_order import Guess, guess_by_count
from pipelines.decode.packet_plan import Display, FromFile, Segment, display, feed, from_memory, segments
from pipelines.decode.packets import Packets
from pipelines.decode.times import seconds, tick_s
from pipelines.decode.track import Track

KEEP_PACKETS: Final = 200_000


@dataclass(frozen=True)
class Read:
    """The packets' records, and the packets themselves (``kept``) if the file is small enough."""

    packets: Packets
    kept: list[Any] | None
    trusted: bool


def read_packets(job: ClipJob, track: Track, *, keep: bool) -> Read:
    """Read a track through once without decoding."""
    context = track.context
    tells = reader(context.name, context.extradata, (context.width + 15) // 16 * ((context.height + 15) // 16))
    slow = unit_lengths("h264", context.extradata or b"") if context.name == "h264" else None
    packets, kept = Packets(reader=tells, slow_starts=slow), list[Any]()
    failures = 0
    for packet in track.demux(job.budget, job.limits.max_packets):
        packets.note(packet)
        if packet.is_corrupt or track.failures > failures:
            failures = track.failures
            packets.doubt()
        if keep:
            kept.append(packet)
            if len(kept) > KEEP_PACKETS:
                keep = False
                kept.clear()
    if track.failures > failures:
        packets.doubt()
    return Read(packets, kept if keep else None, tells is not None)


class Planned:
    """A file decoded by plan: its packets tell its frames without decoding them. Decodes with PyAV.

    ``trusted``: True if they do; otherwise ``decode`` returns nothing. ``opened`` holds the ``track``.

    To add a decoder, derive a class that overrides ``pictures`` (and ``load`` and ``environment`` if it needs them),
    and give it a row in ``gare/config/decoders.py``. This class handles opening, limits, the plan, times and whatever
    is not planned.
    """

    elsewhere: Sequence[str] = ()
    """Notes for a row that ``pictures`` did not make, because every frame of it was decoded in order."""

    @classmethod
    def load(cls) -> None:
        """Import what decoding needs. Raises ImportError, OSError or RuntimeError if that is impossible."""

    @classmethod
    def environment(cls) -> AbstractContextManager[Mapping[str, str]]:
        """Return variables for the decoding process; the files they name must exist until ``load`` is done."""
        return nullcontext({})

    def __init__(self, job: ClipJob, track: Track, read: Read, opened: ExitStack) -> None:
        self._job, self._track, self._read, self._opened = job, track, read, opened
        self._confirmed = False
        self.notes: Sequence[str] = ()
        self._shown: Display | None = None
        damaged = track.damaged
        if read.trusted and track.ordered_by_pts and track.starts_anywhere and not read.packets.new_parameters:
            job.seen = job.corrupt = track.errors = 0
            self._shown = certain(job, track, read.packets, self._feed_looking)
            damaged |= bool(track.errors or job.corrupt)
            self._renew()
        if self._shown is not None:
            self._timeline = Timeline(*self._times(self._shown), ["partial"] if damaged else [])

    def close(self) -> None:
        """Release the file and its packets; nothing more can be decoded."""
        self._opened.close()
        self._read, self._shown = Read(Packets(), None, trusted=False), None

    @property
    def trusted(self) -> bool:
        """True if it is certain which frames there are."""
        return self._shown is not None

    def guess(self, jobs: Sequence[ClipJob]) -> Guess:
        """Guess the frames that some clips will keep, for decoding in order."""
        order = self._shown or (display(self._read.packets) if self._track.ordered_by_pts else None)
        if order is None:
            return guess_by_count(jobs, self._track, len(self._read.packets.shown))
        times, tick = self._times(order)
        picks = {i for job in jobs for i in job.sample(times, tick)}
        return Guess(order.pts[sorted(picks)].tolist(), by_pts=True)

    def _times(self, order: Display) -> tuple[NDArray[np.float64], float]:
        unit = self._track.stream.time_base
        return np.asarray(seconds(order.pts.tolist(), unit)), tick_s(order.pts, unit)

    def decode(self, jobs: Sequence[ClipJob]) -> dict[int, DecodedVideo | DecodeError]:
        """Decode some clips of the file together; return the certain ones by their places in ``jobs``.

        If anything is not as planned, each clip is tried alone, so that no result depends on the other clips.
        """
        if self._shown is None:
            return {}
        results: dict[int, DecodedVideo | DecodeError] = {}
        chosen: dict[int, list[int]] = {}
        for place, job in enumerate(jobs):
            try:
                chosen[place] = job.choose(self._timeline)
            except DecodeError as error:
                results[place] = error
        if results and not self._confirmed and self.pictures([], alone=True) is None:
            return {}  # a clip without frames may have some by the right clock
        for places in [list(chosen)] if len(chosen) < 2 else [list(chosen), *([place] for place in chosen)]:
            if len(places) == 1 and places[0] in results:
                continue
            if len(chosen) > 1 and len(places) == 1:
                self._job.budget.start_again()
            results |= self._together({place: chosen[place] for place in places}, jobs)
        return results

    def _together(self, chosen: dict[int, list[int]], jobs: Sequence[ClipJob]) -> dict[int, DecodedVideo | DecodeError]:
        """Decode the chosen frames of some clips in one go; empty if that fails."""
        wanted = sorted({i for picks in chosen.values() for i in picks})
        try:
            pictures = self.pictures(wanted, alone=len(chosen) == 1)
        except DecodeError as error:
            self._track.forget()
            return dict.fromkeys(chosen, error) if len(chosen) == 1 else {}
        if pictures is None:
            return {}
        facts, timeline = Facts.of(self._track), self._timeline
        timeline = timeline._replace(notes=[*timeline.notes, *self.notes])
        results: dict[int, DecodedVideo | DecodeError] = {}
        for place, picks in chosen.items():
            try:
                results[place] = jobs[place].result(facts, [pictures[i] for i in picks], picks, timeline)
            except DecodeError as error:
                results[place] = error
        return results

    def pictures(self, wanted: Sequence[int], *, alone: bool) -> dict[int, Kept] | None:
        """Decode some shown frames; return None if one did not come out or any may be wrong.

        The first frame must come out too, once, because all times count from it. ``alone``: the frames belong to one
        clip, which is decoded in order after None; several clips are tried one by one. ``notes`` receives any notes.
        """
        del alone
        shown, job, packets = self._shown, self._job, self._read.packets
        if shown is None or shown.repeated[list(wanted)].any():
            return None
        needed = sorted({*wanted} if self._confirmed else {0, *wanted})
        by_pts = {int(shown.pts[i]): i for i in needed}
        places = {i: int(shown.order[i]) for i in needed}
        pictures: dict[int, Kept] = {}
        kept = set(wanted)
        came: set[int] = set()
        watch = Watch(self._track, packets)

        def take(frame: Any, segment: Segment) -> None:
            job.look(frame)
            watch.take(frame, segment)
            i = by_pts.get(frame.pts)
            if i is None or i in came or places[i] not in segment.wanted:
                return
            came.add(i)
            if i == 0:
                self.look_at_first(frame)
            if i in kept:
                pictures[i] = job.convert(frame)

        job.seen = job.corrupt = self._track.errors = 0
        self._feed(segments(packets, sorted(places.values())), take)
        if len(came) < len(needed) or not watch.finish() or self._track.errors or job.corrupt:
            self._renew()
            return None
        if watch.fields and not self._confirmed and not settle_head(packets, self._feed_looking):
            self._shown = None
            return None
        self._confirmed = True
        return pictures

    def look_at_first(self, frame: Any) -> None:
        """Look at the first shown frame, which PyAV always decodes."""

    def _renew(self) -> None:
        """Reopen the file after decoding damage: the decoder may have taken damaged bytes for parameters."""
        if self._track.errors or self._job.corrupt:
            self._opened.close()
            self._track = self._opened.enter_context(self._job.open())

    def _feed_looking(self, plan: Sequence[Segment], take: Callable[[Any, Segment], None]) -> None:
        def looked(frame: Any, segment: Segment) -> None:
            self._job.look(frame)
            take(frame, segment)

        self._feed(plan, looked)

    def _feed(self, plan: Sequence[Segment], take: Callable[[Any, Segment], None]) -> None:
        job, track, packets = self._job, self._track, self._read.packets
        if self._read.kept is not None:
            feed(track, plan, from_memory(self._read.kept), job.budget, take)
            return
        done = feed(track, plan, FromFile(track, packets, job.budget, seeks=True), job.budget, take)
        if done < len(plan):
            with job.open() as again:
                feed(again, plan[done:], FromFile(again, packets, job.budget, seeks=False), job.budget, take)
                track.errors += again.errors

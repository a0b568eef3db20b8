"""Decode every frame in order: the reference for the plan, and the fallback if the plan cannot be trusted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.decode.clip_job import ClipJob, DecodedVideo, Facts, Kept, Timeline, rate_of
from pipelines.decode.errors import DecodeError
from pipelines.decode.times import DEFAULT_RATE, shown
from pipelines.decode.track import Track


@dataclass(frozen=True)
class Guess:
    """Frames that will probably be kept: the first at or after each of ``targets``, rising numbers or pts."""

    targets: Sequence[int] = ()
    by_pts: bool = False

    def matcher(self) -> Callable[[int, int | None], bool]:
        """Make a function of each frame's number and pts, called in order, that returns True for the guessed frames."""
        waiting = deque(self.targets)

        def matches(number: int, pts: int | None) -> bool:
            value = pts if self.by_pts else number
            if not waiting or value is None or value < waiting[0]:
                return False
            while waiting and waiting[0] <= value:
                waiting.popleft()
            return True

        return matches


def guess_by_count(jobs: Sequence[ClipJob], track: Track, count: int) -> Guess:
    """Guess the kept frames out of ``count`` frames at the file's rate."""
    rate = rate_of(track) or DEFAULT_RATE
    times = [i / rate for i in range(count)]
    return Guess(sorted({i for job in jobs for i in job.sample(times)}))


def in_order(job: ClipJob, guess: Guess | None = None) -> DecodedVideo:
    """Decode everything for the frames' times, choose the frames to keep, and decode again to make their pictures.

    The second pass is skipped if ``guess`` covers all kept frames: the first pass has already made their pictures.
    """
    sequential = Sequential(job, guess)
    try:
        (result,) = sequential.decode([job])
    finally:
        sequential.close()
    if isinstance(result, DecodeError):
        raise result
    return result


class Sequential:
    """A file whose frames are all decoded in order: once for their times, then for the pictures of any clips.

    Clips in order of time share one pass. ``guess``: as for ``in_order``.
    """

    def __init__(self, job: ClipJob, guess: Guess | None = None) -> None:
        self._job, self._guess = replace(job, seen=0, corrupt=0), guess or Guess()
        self._made: dict[int, Kept | DecodeError] = {}
        self._known: tuple[Facts, Sequence[int], Timeline] | None = None
        self._failed: DecodeError | None = None
        self._coming: Generator[tuple[int, Any]] | None = None
        self._at = 0

    def close(self) -> None:
        """Close the file; the next decoding starts at its beginning."""
        if self._coming is not None:
            self._coming.close()
        self._coming, self._at = None, 0

    def decode(self, jobs: Sequence[ClipJob], later: Sequence[ClipJob] = ()) -> list[DecodedVideo | DecodeError]:
        """Decode some clips of the file; also keep pictures of the ``later`` clips that come up on the way."""
        try:
            facts, numbers, timeline = self._read()
        except DecodeError as error:
            return [error.again() for _ in jobs]
        chosen = [_chosen(job, timeline) for job in jobs]
        wanted = {numbers[i] for picks in chosen if isinstance(picks, list) for i in picks}
        also = {
            numbers[i] for job in later for picks in [_chosen(job, timeline)] if isinstance(picks, list) for i in picks
        }
        try:
            self._make(wanted, also)
        except DecodeError as error:
            self.close()
            return [picks if isinstance(picks, DecodeError) else error.again() for picks in chosen]
        results = [self._result(*pair, facts, numbers, timeline) for pair in zip(jobs, chosen, strict=True)]
        self._made = {number: one for number, one in self._made.items() if number in also}
        return results

    def _result(
        self, job: ClipJob, picks: list[int] | DecodeError, facts: Facts, numbers: Sequence[int], timeline: Timeline
    ) -> DecodedVideo | DecodeError:
        if isinstance(picks, DecodeError):
            return picks
        kept = []
        for i in picks:
            one = self._made[numbers[i]]
            if isinstance(one, DecodeError):
                return one.again()
            kept.append(one)
        try:
            return replace(job, seen=self._job.seen, corrupt=self._job.corrupt).result(facts, kept, picks, timeline)
        except DecodeError as error:
            return error

    def _read(self) -> tuple[Facts, Sequence[int], Timeline]:
        """Decode everything once; return the track's facts, the numbers of the frames that count, and their times."""
        if self._failed is not None:
            raise self._failed
        if self._known is None:
            try:
                self._known = self._read_once()
            except DecodeError as error:
                self._failed = error
                raise
        return self._known

    def _read_once(self) -> tuple[Facts, Sequence[int], Timeline]:
        job, matches = self._job, self._guess.matcher()
        pts: list[int | None] = []
        with job.open() as track:
            for number, frame in enumerate(_frames(job, track)):
                pts.append(frame.pts)
                if matches(number, frame.pts):
                    with suppress(DecodeError):  # a frame that is not kept may be of any kind
                        self._made[number] = job.convert(frame)
            if not pts:
                raise DecodeError("no_frames", "Video data, but no frame came from it.")
            unit, made_up = track.stream.time_base, not track.ordered_by_pts
            counted = shown(pts, unit, rate_of(track), made_up=made_up)
            partial = ["partial"] if track.errors or track.damaged or job.corrupt else []
            timeline = Timeline(np.asarray(counted.times_s), counted.tick_s, [*partial, *counted.notes])
            return Facts.of(track), counted.numbers, timeline

    def _make(self, wanted: set[int], also: set[int]) -> None:
        """Make the pictures of the ``wanted`` frames, and of the ``also`` frames that come before the last of them."""
        missing = sorted(wanted - self._made.keys())
        if not missing:
            return
        if missing[0] < self._at:
            self.close()
        if self._coming is None:
            self._coming = self._again()
        for number, frame in self._coming:
            self._at = number + 1
            if (number in wanted or number in also) and number not in self._made:
                try:
                    self._made[number] = self._job.convert(frame)
                except DecodeError as error:
                    self._made[number] = error
            if number == missing[-1]:
                return

    def _again(self) -> Generator[tuple[int, Any]]:
        job = replace(self._job)  # a copy, as this one has already counted every frame
        with job.open() as track:
            yield from enumerate(_frames(job, track))


def _chosen(job: ClipJob, timeline: Timeline) -> list[int] | DecodeError:
    try:
        return job.choose(timeline)
    except DecodeError as error:
        return error


def _frames(job: ClipJob, track: Track) -> Iterator[Any]:
    for packet in track.demux(job.budget, job.limits.max_packets):
        yield from _looked(job, track.decode(packet))
    yield from _looked(job, track.decode(None))


def _looked(job: ClipJob, frames: Iterable[Any]) -> Iterator[Any]:
    for frame in frames:
        job.look(frame)
        yield frame

"""Decoding every frame in order: what the plan must equal, and what is done where it cannot be trusted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipelines.decode.errors import DecodeError
from pipelines.decode.job import DEFAULT_RATE, DecodedVideo, Job, Kept, rate_of, seconds
from pipelines.decode.source import Track


@dataclass(frozen=True)
class Guess:
    """Frames that will probably be kept: the first at or after each of ``targets``, rising numbers or pts."""

    targets: Sequence[int] = ()
    by_pts: bool = False

    def matcher(self) -> Callable[[int, int | None], bool]:
        """Make what says, for the number and pts of one frame after the other, whether it is one of them."""
        waiting = deque(self.targets)

        def matches(number: int, pts: int | None) -> bool:
            value = pts if self.by_pts else number
            if not waiting or value is None or value < waiting[0]:
                return False
            while waiting and waiting[0] <= value:
                waiting.popleft()
            return True

        return matches


def in_order(job: Job, guess: Guess | None = None) -> DecodedVideo:
    """Decode everything for the times of the frames, which say what is kept, and again for those frames.

    The second time is left out where ``guess`` meets all that is kept: their pictures were made the first time.
    """
    matches = (guess or Guess()).matcher()
    job.start_again()
    made: dict[int, Kept] = {}
    pts: list[int | None] = []
    with job.open() as track:
        for number, frame in enumerate(_frames(job, track)):
            pts.append(frame.pts)
            if matches(number, frame.pts):
                with suppress(DecodeError):  # what is not kept may be anything
                    made[number] = job.convert(frame)
        if not pts:
            raise DecodeError("no_frames", "Video data, but no frame came from it.")
        numbers, times, notes = _display(track, pts)
        if track.errors or track.damaged or job.corrupt:
            notes = ["partial", *notes]
        picks = job.choose(times)
        wanted = [numbers[i] for i in picks]
        made |= _again(job, [number for number in wanted if number not in made])
        return job.result(track, [made[i] for i in wanted], [times[i] for i in picks], order_s=times, notes=notes)


def guess_by_count(job: Job, track: Track, count: int) -> Guess:
    """Guess what will be kept of ``count`` frames at the file's rate."""
    rate = rate_of(track) or DEFAULT_RATE
    return Guess(job.sample([i / rate for i in range(count)]))


def _again(job: Job, missing: Sequence[int]) -> dict[int, Kept]:
    """Decode as far as the last of the ``missing`` frames, for their pictures."""
    made: dict[int, Kept] = {}
    if not missing:
        return made
    seen, corrupt = job.seen, job.corrupt
    with job.open() as track:
        for number, frame in enumerate(_frames(job, track)):
            if number in missing:
                made[number] = job.convert(frame)
            if number == missing[-1]:
                break
    job.seen, job.corrupt = seen, corrupt
    return made


def _display(track: Track, pts: Sequence[int | None]) -> tuple[Sequence[int], list[float], list[str]]:
    """Say which of the frames that came out count, when they are shown, and a note where the file does not tell.

    A repeated pts counts once, as in the plan. Where one is missing, goes back, or most are repeated, frames are
    counted instead.
    """
    known = [value for value in pts if value is not None]
    if len(known) == len(pts) and all(a <= b for a, b in pairwise(known)):
        first = [i for i, value in enumerate(known) if i == 0 or value > known[i - 1]]
        if 2 * len(first) >= len(known):
            return first, seconds(track, [known[i] for i in first]), []
    rate = rate_of(track) or DEFAULT_RATE
    return range(len(pts)), [i / rate for i in range(len(pts))], ["ordinal_timestamps"]


def _frames(job: Job, track: Track) -> Iterator[Any]:
    for packet in track.demux(job.budget, job.limits.max_packets):
        yield from _looked(job, track.decode(packet))
    yield from _looked(job, track.decode(None))


def _looked(job: Job, frames: Iterable[Any]) -> Iterator[Any]:
    for frame in frames:
        job.look(frame)
        yield frame

"""Decoding one video: the packet plan first, every frame in order where the plan cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gare.config.prepare import PrepareConfig
from pipelines.decode.errors import Budget, DecodeError
from pipelines.decode.feed import FromFile, feed, from_memory
from pipelines.decode.in_order import Guess, guess_by_count, in_order
from pipelines.decode.job import DecodedVideo, Job, Kept, seconds
from pipelines.decode.packets import Packets
from pipelines.decode.plan import Display, Segment, display, segments
from pipelines.decode.source import Track, check_file

KEEP_BYTES: Final = 64 * 2**20
KEEP_PACKETS: Final = 200_000


@dataclass(frozen=True)
class Clip:
    """A stretch of a video, ``start_s <= t < end_s`` in seconds from its first shown frame; None: no bound."""

    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class _Read:
    """The packets of a track, themselves too (``kept``) when the file is small enough; ``notes`` on the reading."""

    packets: Packets
    kept: list[Any] | None
    notes: list[str]


def decode_video(
    path: str | Path, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
) -> DecodedVideo:
    """Decode the frames of a local file that ``recipe`` keeps, within ``start_s <= t < end_s``.

    Raises DecodeError with a kind of ``KINDS``, and MemoryError for want of memory or where a damaged file asks for
    absurd amounts of it. Nothing in the file is trusted but its packets.
    """
    job = Job(Path(path), recipe, start_s, end_s, Budget(recipe.limits.cpu_seconds))
    size = check_file(job.path, job.limits)
    with job.open() as track:
        read = _read_packets(job, track, keep=size <= KEEP_BYTES)
        shown = display(read.packets) if track.ordered_by_pts and track.starts_anywhere else None
        if shown is None:
            guess = guess_by_count(job, track, len(read.packets.shown))
        else:
            times = seconds(track, shown.pts.tolist())
            picks = job.choose(times)
            pictures = _by_plan(job, track, read, shown, picks)
            if pictures is not None:
                return job.result(track, pictures, [times[i] for i in picks], order_s=times, notes=read.notes)
            guess = Guess(shown.pts[picks].tolist(), by_pts=True)
    return in_order(job, guess)


def decode_clips(
    path: str | Path, *, recipe: PrepareConfig, clips: Sequence[Clip]
) -> Iterator[DecodedVideo | DecodeError]:
    """Decode many clips of one file, in the order given: each as ``decode_video`` does, or the error it raises.

    Raises MemoryError as ``decode_video`` does.
    """
    for clip in clips:
        try:
            yield decode_video(path, recipe=recipe, start_s=clip.start_s, end_s=clip.end_s)
        except DecodeError as error:
            yield error


def decode_in_order(
    path: str | Path, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
) -> DecodedVideo:
    """Do what ``decode_video`` does without the plan: every frame decoded, in order. The plain one of the two."""
    job = Job(Path(path), recipe, start_s, end_s, Budget(recipe.limits.cpu_seconds))
    check_file(job.path, job.limits)
    return in_order(job)


def _read_packets(job: Job, track: Track, *, keep: bool) -> _Read:
    packets, kept = Packets(), list[Any]()
    for packet in track.demux(job.budget, job.limits.max_packets):
        packets.note(packet)
        if keep:
            kept.append(packet)
            if len(kept) > KEEP_PACKETS:
                keep = False
                kept.clear()
    return _Read(packets, kept if keep else None, ["partial"] if track.damaged else [])


def _by_plan(job: Job, track: Track, read: _Read, shown: Display, picks: list[int]) -> list[Kept] | None:
    """Pictures of the kept frames; None when one did not come out, or anything makes it doubtful that it is right."""
    if read.packets.new_parameters or shown.repeated[picks].any():
        return None
    wanted = shown.order[picks].tolist()
    by_pts = dict(zip(shown.pts[picks].tolist(), wanted, strict=True))
    pictures: dict[int, Kept] = {}

    def take(frame: Any, segment: Segment) -> None:
        job.look(frame)
        position = by_pts.get(frame.pts)
        if position in segment.wanted and position not in pictures:
            pictures[position] = job.convert(frame)

    plan = segments(read.packets, wanted)
    if read.kept is not None:
        feed(track, plan, from_memory(read.kept), job.budget, take)
    else:
        done = feed(track, plan, FromFile(track, read.packets, job.budget, seeks=True), job.budget, take)
        if done < len(plan):
            with job.open() as again:
                through = FromFile(again, read.packets, job.budget, seeks=False)
                feed(track, plan[done:], through, job.budget, take)
    if len(pictures) < len(wanted) or track.errors or job.corrupt:
        return None
    return [pictures[i] for i in wanted]

"""Decoding one video: the packet plan first, every frame in order where the plan cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from av.video.reformatter import VideoReformatter

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines import sampling
from pipelines.decode.errors import Budget, DecodeError
from pipelines.decode.picture import Picture, picture
from pipelines.decode.plan import Segment, display_order, segments
from pipelines.decode.source import KEEP_PACKETS_BYTES, Packet, Track, check_file, open_track

# Codecs whose unreferenced frames can be left out. Not mpeg4: AVI packs two of its frames into a packet.
SKIPPABLE = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})
DEFAULT_RATE = 25.0  # for the times of frames in files that have neither times nor a rate


@dataclass(frozen=True)
class DecodedVideo:
    """The kept frames of a video and where they came from.

    ``frames``: RGB uint8 [crop, crop, 3] each; ``timestamps_s``: when each is shown, in seconds from the first
    shown frame; ``width`` and ``height``: as stored, before any rotation; ``duration_s``: from the first
    shown frame to the end of the last, counted from the packets; ``notes``: ``partial`` (some of the file
    was damaged), ``ordinal_timestamps`` (times from the frames' numbers, because the file has none).
    """

    frames: list[Picture]
    timestamps_s: list[float]
    codec: str
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    notes: list[str]


@dataclass
class _Job:
    """What one decode carries along: the recipe, its clip, the time left and what was seen."""

    path: Path
    recipe: PrepareConfig
    start_s: float | None
    end_s: float | None
    budget: Budget
    reformatter: Any = field(default_factory=VideoReformatter)
    seen: int = 0
    corrupt: int = 0
    size: tuple[int, int] = (0, 0)

    @property
    def limits(self) -> LimitsConfig:
        return self.recipe.limits

    def choose(self, times_s: Sequence[float]) -> list[int]:
        """Sample the shown frames; DecodeError when the video is too long or the clip is empty."""
        if times_s[-1] > self.limits.max_seconds:
            raise DecodeError("too_long", f"{times_s[-1]:.0f} s, more than {self.limits.max_seconds:g} s.")
        recipe = self.recipe
        picks = sampling.sample(
            times_s,
            policy=recipe.policy,
            max_frames=recipe.max_frames,
            candidate_fps=recipe.candidate_fps,
            start_s=self.start_s,
            end_s=self.end_s,
        )
        if not picks:
            clip = f"{self.start_s or 0:g} s and {'the end' if self.end_s is None else f'{self.end_s:g} s'}"
            raise DecodeError("empty_clip", f"No frame between {clip}; the last is at {times_s[-1]:.2f} s.")
        return picks

    def look(self, frame: Any) -> None:
        """Count a decoded frame; refuse a larger one than declared."""
        self.seen += 1
        self.corrupt += bool(frame.is_corrupt)
        if frame.width * frame.height > self.limits.max_pixels:
            raise DecodeError("too_many_pixels", f"A frame of {frame.width} x {frame.height} pixels.")

    def convert(self, frame: Any) -> Picture:
        """Make the stored square of a kept frame."""
        if self.size == (0, 0):
            self.size = (frame.width, frame.height)
        return picture(frame, self.reformatter, short_side=self.recipe.short_side, crop=self.recipe.crop)


def decode_video(
    path: str | Path, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
) -> DecodedVideo:
    """Decode the frames of a local file that ``recipe`` keeps, within ``start_s <= t < end_s``.

    Raises DecodeError with a kind of ``KINDS``. Nothing in the file is trusted but its packets.
    """
    job = _Job(Path(path), recipe, start_s, end_s, Budget(recipe.limits.cpu_seconds))
    size = check_file(job.path, job.limits)
    with open_track(job.path, job.limits) as track:
        packets, kept = _read_packets(job, track, keep=size <= KEEP_PACKETS_BYTES)
        order = display_order(packets) if track.ordered_by_pts else None
        if order is not None:
            found = _by_plan(job, track, packets, order, kept)
            if found is not None:
                return _finish(job, track, *found, order_s=_seconds(track, packets, order), notes=[])
    return _in_order(job)


def decode_in_order(
    path: str | Path, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
) -> DecodedVideo:
    """Do what ``decode_video`` does without the plan: every frame decoded, in order. The plain one of the two."""
    job = _Job(Path(path), recipe, start_s, end_s, Budget(recipe.limits.cpu_seconds))
    check_file(job.path, job.limits)
    return _in_order(job)


def _read_packets(job: _Job, track: Track, *, keep: bool) -> tuple[list[Packet], list[Any] | None]:
    """Note what every packet is, and the packets themselves when the file is small enough to hold them."""
    packets: list[Packet] = []
    kept: list[Any] = []
    for packet in track.demux(job.budget, job.limits.max_packets):
        packets.append(Packet(packet.pts, packet.is_keyframe, packet.is_discard))
        if keep:
            kept.append(packet)
    return packets, kept if keep else None


def _seconds(track: Track, packets: Sequence[Packet], order: Sequence[int]) -> list[float]:
    pts = [packets[i].pts or 0 for i in order]
    return [float((value - pts[0]) * track.stream.time_base) for value in pts]


def _by_plan(
    job: _Job, track: Track, packets: Sequence[Packet], order: Sequence[int], kept: Sequence[Any] | None
) -> tuple[list[Picture], list[float]] | None:
    """Pictures and times of the kept frames; None when one did not come out or anything on the way was damaged."""
    times = _seconds(track, packets, order)
    if not times:
        return None
    picks = job.choose(times)
    wanted = [order[i] for i in picks]
    by_pts = {packets[i].pts: i for i in wanted}
    pictures: dict[int, Picture] = {}

    def take(frame: Any) -> None:
        position = by_pts.get(frame.pts)
        if position is not None and position not in pictures:
            pictures[position] = job.convert(frame)

    plan = segments(packets, wanted)
    if kept is not None:
        _feed(job, track, plan, kept, take)
    else:
        with open_track(job.path, job.limits) as again:
            _feed(job, track, plan, again.demux(job.budget, job.limits.max_packets), take)
    if len(pictures) < len(wanted) or track.errors or job.corrupt:
        return None
    return [pictures[i] for i in wanted], [times[i] for i in picks]


def _feed(
    job: _Job, track: Track, plan: Sequence[Segment], packets: Iterable[Any], take: Callable[[Any], None]
) -> None:
    """Decode the plan's packets, handing on every frame that comes out."""
    skip = track.context.name in SKIPPABLE
    todo = iter(plan)
    segment = next(todo, None)
    for position, packet in enumerate(packets):
        if segment is None:
            return
        if position < segment.start:
            continue
        job.budget.check()
        if skip:
            track.context.skip_frame = "DEFAULT" if position in segment.wanted else "NONREF"
        frames = track.decode(packet)
        if position == segment.stop:
            frames += track.decode(None)
            track.context.flush_buffers()
            segment = next(todo, None)
        for frame in frames:
            job.look(frame)
            take(frame)


def _in_order(job: _Job) -> DecodedVideo:
    """Decode everything twice: once for the times of the frames that come out, once for the kept ones."""
    with open_track(job.path, job.limits) as track:
        job.seen = job.corrupt = 0
        pts = [frame.pts for frame in _frames(job, track)]
        notes = []
        if not pts:
            raise DecodeError("no_frames", "Video data, but no frame came from it.")
        if None in pts or any(b <= a for a, b in pairwise(pts)):
            notes.append("ordinal_timestamps")
            rate = _rate(track) or DEFAULT_RATE
            times = [i / rate for i in range(len(pts))]
        else:
            times = [float((value - pts[0]) * track.stream.time_base) for value in pts]
    picks = job.choose(times)
    wanted = set(picks)
    with open_track(job.path, job.limits) as track:
        job.seen = job.corrupt = 0
        pictures = [job.convert(frame) for i, frame in enumerate(_frames(job, track)) if i in wanted]
        return _finish(job, track, pictures, [times[i] for i in picks], order_s=times, notes=notes)


def _frames(job: _Job, track: Track) -> Iterator[Any]:
    for packet in track.demux(job.budget, job.limits.max_packets):
        yield from _looked(job, track.decode(packet))
    yield from _looked(job, track.decode(None))


def _looked(job: _Job, frames: Iterable[Any]) -> Iterator[Any]:
    for frame in frames:
        job.look(frame)
        yield frame


def _finish(
    job: _Job, track: Track, pictures: list[Picture], times: list[float], *, order_s: Sequence[float], notes: list[str]
) -> DecodedVideo:
    if 2 * job.corrupt > job.seen:
        raise DecodeError("corrupt", f"{job.corrupt} of {job.seen} decoded frames are damaged; encrypted, perhaps.")
    if track.errors or job.corrupt:
        notes = ["partial", *notes]
    width, height = job.size
    fps = _rate(track)
    span = order_s[-1] + ((order_s[-1] / (len(order_s) - 1)) if len(order_s) > 1 else (1 / fps if fps else 0.0))
    return DecodedVideo(pictures, times, track.context.name, width, height, fps, span, notes)


def _rate(track: Track) -> float | None:
    rate = track.stream.average_rate or track.stream.guessed_rate
    return float(rate) if rate else None

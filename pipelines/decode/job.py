"""What one decode carries along: the recipe, its clip, the time left and what was seen on the way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av.error
from av.video.reformatter import VideoReformatter

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines import sampling
from pipelines.decode.errors import Budget, DecodeError
from pipelines.decode.picture import Picture, picture
from pipelines.decode.room import check_row
from pipelines.decode.source import Track, open_track

DEFAULT_RATE = 25.0  # for the times of frames in files that have neither times nor a rate


@dataclass(frozen=True)
class DecodedVideo:
    """The kept frames of a video and where they came from.

    ``frames``: RGB uint8 [height, width, 3] each, all of one shape; ``timestamps_s``: when each is shown, in seconds
    from the first shown frame; ``width`` and ``height``: as stored in the file, before any rotation; ``duration_s``:
    from the first shown frame to the end of the last, counted from the packets; ``notes``: keys of ``NOTES``.
    """

    frames: list[Picture]
    timestamps_s: list[float]
    codec: str
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    notes: list[str]


class Kept(NamedTuple):
    """A stored picture, and width and height of the frame it was made of."""

    picture: Picture
    size: tuple[int, int]


@dataclass
class Job:
    """One video to decode by ``recipe`` within ``start_s <= t < end_s``."""

    path: Path
    recipe: PrepareConfig
    start_s: float | None
    end_s: float | None
    budget: Budget
    reformatter: Any = field(default_factory=VideoReformatter)
    seen: int = 0
    corrupt: int = 0
    truncated: bool = False

    @property
    def limits(self) -> LimitsConfig:
        """The recipe's limits."""
        return self.recipe.limits

    def open(self) -> AbstractContextManager[Track]:
        """Open the video's best track."""
        return open_track(self.path, self.limits)

    def start_again(self) -> None:
        """Forget what was seen, before decoding anew."""
        self.seen = self.corrupt = 0

    def choose(self, times_s: Sequence[float]) -> list[int]:
        """Sample the shown frames; DecodeError when the video is too long or no frame is to be had."""
        if times_s[-1] > self.limits.max_seconds:
            raise DecodeError("too_long", f"{times_s[-1]:.0f} s, more than {self.limits.max_seconds:g} s.")
        picks = self.sample(times_s)
        if not picks:
            clip = f"{self.start_s or 0:g} s and {'the end' if self.end_s is None else f'{self.end_s:g} s'}"
            which = "moment of prepare.timestamps_s" if self.recipe.policy == "timestamps" else "frame"
            raise DecodeError("empty_clip", f"No {which} between {clip}; the last frame is at {times_s[-1]:.2f} s.")
        check_row(len(picks), self.recipe.side, self.recipe.side, self.recipe)  # before any of them is made
        self.truncated = sampling.is_truncated(times_s, **self._rule())
        return picks

    def sample(self, times_s: Sequence[float]) -> list[int]:
        """Sample frames shown at ``times_s``, none where the clip holds none."""
        return sampling.sample(times_s, timestamps_s=self.recipe.timestamps_s or (), **self._rule())

    def _rule(self) -> dict[str, Any]:
        recipe = self.recipe
        names = {"policy": recipe.policy, "max_frames": recipe.max_frames, "candidate_fps": recipe.candidate_fps}
        return {**names, "start_s": self.start_s, "end_s": self.end_s}

    def look(self, frame: Any) -> None:
        """Count a decoded frame; refuse a larger one than declared."""
        self.seen += 1
        self.corrupt += bool(frame.is_corrupt)
        if frame.width * frame.height > self.limits.max_pixels:
            raise DecodeError("too_many_pixels", f"A frame of {frame.width} x {frame.height} pixels.")

    def convert(self, frame: Any) -> Kept:
        """Make the stored picture of a frame; DecodeError where that cannot be."""
        try:
            return Kept(picture(frame, self.reformatter, self.recipe), (frame.width, frame.height))
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeError("no_decodable_video", f"A frame that cannot be made RGB: {error}.") from None

    def result(
        self, track: Track, kept: Sequence[Kept], times: list[float], *, order_s: Sequence[float], notes: list[str]
    ) -> DecodedVideo:
        """Put the decoded video together; DecodeError when most frames were damaged or the shapes differ."""
        if 2 * self.corrupt > self.seen:
            message = f"{self.corrupt} of {self.seen} decoded frames are damaged; encrypted, perhaps."
            raise DecodeError("corrupt", message)
        shapes = dict.fromkeys(f"{one.picture.shape[1]} x {one.picture.shape[0]}" for one in kept)
        if len(shapes) > 1:
            raise DecodeError("mixed_shapes", f"Resized frames of {' and '.join(shapes)} pixels; set prepare.crop.")
        if self.truncated:
            notes = [*notes, "truncated"]
        width, height = kept[0].size
        fps = rate_of(track)
        mean = order_s[-1] / (len(order_s) - 1) if len(order_s) > 1 else (1 / fps if fps else 0.0)
        pictures = [one.picture for one in kept]
        check_row(len(pictures), pictures[0].shape[0], pictures[0].shape[1], self.recipe)
        return DecodedVideo(pictures, times, track.context.name, width, height, fps, order_s[-1] + mean, notes)


def rate_of(track: Track) -> float | None:
    """Frames per second as the file states or implies."""
    rate = track.stream.average_rate or track.stream.guessed_rate
    return float(rate) if rate else None


def seconds(track: Track, pts: Sequence[int]) -> list[float]:
    """Turn pts into seconds from the first of them."""
    unit = track.stream.time_base
    up, down = unit.numerator, unit.denominator
    return [(value - pts[0]) * up / down for value in pts]

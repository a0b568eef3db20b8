"""State of one decode: the recipe, its clip, the remaining time and counts of what was decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import av.error
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import sampling
from pipelines.decode.errors import Budget, DecodeError, check_row
from pipelines.decode.picture import AS_STORED, Picture, picture
from pipelines.decode.track import Track, open_track


@dataclass(frozen=True)
class Clip:
    """A stretch of a video, ``start_s <= t < end_s`` in seconds from its first shown frame; None: unbounded."""

    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class DecodedVideo:
    """The kept frames of a video and where they came from.

    ``frames``: RGB uint8 [height, width, 3] each, all of one shape; ``timestamps_s``: when each is shown, in seconds
    from the first shown frame; ``width`` and ``height``: as stored in the file, before any rotation; ``duration_s``:
    from the first shown frame to the end of the last; ``notes``: keys of ``NOTES``.
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
    """A stored picture, and width and height of its frame."""

    picture: Picture
    size: tuple[int, int]


class Timeline(NamedTuple):
    """The time of every shown frame of a video: float64 [n], in seconds from the first; and notes on the times.

    ``tick_s``: the unit the times are rounded to, 0 if they are exact.
    """

    times_s: NDArray[np.float64]
    tick_s: float
    notes: list[str]


class Facts(NamedTuple):
    """Facts about an open track: the decoder's name, and frames per second as stated or implied."""

    codec: str
    fps: float | None

    @classmethod
    def of(cls, track: Track) -> Facts:
        """Read the facts of a track."""
        return cls(track.context.name, rate_of(track))


@dataclass
class ClipJob:
    """One video to decode by ``recipe`` within ``start_s <= t < end_s``."""

    path: Path
    recipe: PrepareConfig
    start_s: float | None
    end_s: float | None
    budget: Budget
    reformatter: Any = field(default_factory=VideoReformatter)
    track: Track = field(init=False)
    seen: int = 0
    corrupt: int = 0
    truncated: bool = False

    @property
    def limits(self) -> LimitsConfig:
        """The recipe's limits."""
        return self.recipe.limits

    @contextmanager
    def open(self) -> Iterator[Track]:
        """Open the video's best track; ``convert`` then works on its frames."""
        with open_track(self.path, self.limits) as track:
            self.track = track
            yield track

    def of(self, clip: Clip) -> ClipJob:
        """Return the same job for another clip."""
        return replace(self, start_s=clip.start_s, end_s=clip.end_s, truncated=False)

    def choose(self, timeline: Timeline) -> list[int]:
        """Sample the shown frames. Raises DecodeError if the video is too long or the clip has no frame."""
        last = float(timeline.times_s[-1])
        if last > self.limits.max_seconds:
            raise DecodeError("too_long", f"{last:.0f} s, more than {self.limits.max_seconds:g} s.")
        picks = self.sample(timeline.times_s, timeline.tick_s)
        if not picks:
            clip = f"{self.start_s or 0:g} s and {'the end' if self.end_s is None else f'{self.end_s:g} s'}"
            which = "moment of prepare.timestamps_s" if self.recipe.policy == "timestamps" else "frame"
            raise DecodeError("empty_clip", f"No {which} between {clip}; the last frame is at {last:.2f} s.")
        check_row(len(picks), self.recipe.side, self.recipe.side, self.recipe)  # before making any picture
        self.truncated = sampling.is_truncated(timeline.times_s, tick_s=timeline.tick_s, **self._rule())
        return picks

    def sample(self, times_s: Sequence[float] | NDArray[np.float64], tick_s: float = 0.0) -> list[int]:
        """Sample frames shown at ``times_s``; empty if the clip holds none."""
        return sampling.sample(times_s, timestamps_s=self.recipe.timestamps_s or (), tick_s=tick_s, **self._rule())

    def _rule(self) -> dict[str, Any]:
        recipe = self.recipe
        names = {"policy": recipe.policy, "max_frames": recipe.max_frames, "candidate_fps": recipe.candidate_fps}
        return {**names, "start_s": self.start_s, "end_s": self.end_s}

    def look(self, frame: Any) -> None:
        """Count a decoded frame. Raises DecodeError if it is larger than declared."""
        self.seen += 1
        self.corrupt += bool(frame.is_corrupt)
        if frame.width * frame.height > self.limits.max_pixels:
            raise DecodeError("too_many_pixels", f"A frame of {frame.width} x {frame.height} pixels.")

    def convert(self, frame: Any) -> Kept:
        """Make the stored picture of a frame. Raises DecodeError if that is impossible."""
        try:
            shown = self.track.pixel_shape, self.track.orientation or AS_STORED
            made = picture(frame, self.reformatter, self.recipe, *shown)
            return Kept(made, (frame.width, frame.height))
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeError("no_decodable_video", f"A frame that cannot be made RGB: {error}.") from None

    def result(self, facts: Facts, kept: Sequence[Kept], picks: Sequence[int], timeline: Timeline) -> DecodedVideo:
        """Assemble the decoded video. Raises DecodeError if most frames are damaged or the shapes differ."""
        if 2 * self.corrupt > self.seen:
            message = f"{self.corrupt} of {self.seen} decoded frames are damaged; encrypted, perhaps."
            raise DecodeError("corrupt", message)
        shapes = dict.fromkeys(f"{one.picture.shape[1]} x {one.picture.shape[0]}" for one in kept)
        if len(shapes) > 1:
            raise DecodeError("mixed_shapes", f"Resized frames of {' and '.join(shapes)} pixels; set prepare.crop.")
        notes = [*timeline.notes, "truncated"] if self.truncated else list(timeline.notes)
        width, height = kept[0].size
        times, last = timeline.times_s, float(timeline.times_s[-1])
        mean = last / (len(times) - 1) if len(times) > 1 else (1 / facts.fps if facts.fps else 0.0)
        pictures, chosen = [one.picture for one in kept], [float(times[i]) for i in picks]
        check_row(len(pictures), pictures[0].shape[0], pictures[0].shape[1], self.recipe)
        return DecodedVideo(pictures, chosen, facts.codec, width, height, facts.fps, last + mean, notes)


def rate_of(track: Track) -> float | None:
    """Return frames per second as the file states or implies."""
    rate = track.stream.average_rate or track.stream.guessed_rate
    return float(rate) if rate else None

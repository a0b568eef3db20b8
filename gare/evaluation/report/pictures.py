"""Strips of a few frames of a video, small enough to embed in a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from gare.data.shards import Split

SHOWN_FRAMES = 4
SIDE = 96
GAP = 1
QUALITY = 80


@dataclass(frozen=True)
class Strip:
    """Some frames of a video from left to right, as a data URI; ``width`` and ``height`` in pixels."""

    video_id: str
    frames: int
    width: int
    height: int
    uri: str


class Strips:
    """Makes strips of a split's videos, each once."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._made: dict[int, Strip] = {}

    def of(self, video: int) -> Strip:
        """Return the strip of a video by its number: at most 4 frames of at most 96 pixels."""
        if video not in self._made:
            self._made[video] = self._make(video)
        return self._made[video]

    def _make(self, video: int) -> Strip:
        frames = [Image.fromarray(frame) for frame in self._split.frames(video, SHOWN_FRAMES)]
        for frame in frames:
            frame.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        width, height = frames[0].size
        picture = Image.new("RGB", ((width + GAP) * len(frames) - GAP, height), "grey")
        for place, frame in enumerate(frames):
            picture.paste(frame, (place * (width + GAP), 0))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY)
        uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
        return Strip(self._split.videos[video].video_id, len(frames), *picture.size, uri)

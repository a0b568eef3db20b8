"""Encode frames into a video file, byte for byte the same every time (for one version of PyAV)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import av

from pipelines.synthetic.scenes import Picture


@dataclass(frozen=True, slots=True)
class Format:
    """A codec in a container; ``weight`` is its relative share of the clips."""

    codec: str
    container: str
    extension: str
    weight: int
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)


_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "24", "b": "0"}
_MPEG4 = {"flags": "+bitexact+qscale", "global_quality": str(118 * 2)}  # 118: FFmpeg's quantiser unit
FORMATS: Final = (
    Format("libx264", "mp4", "mp4", 10, options={"preset": "ultrafast", "crf": "21"}),
    Format("libx264", "matroska", "mkv", 3, options={"preset": "superfast", "crf": "20", "g": "12"}),
    Format("libx264", "mov", "mov", 1, pixels="yuv444p", options={"preset": "ultrafast", "crf": "20"}),
    Format("mpeg4", "mp4", "mp4", 2, options=_MPEG4),
    Format("mpeg4", "avi", "avi", 2, options={**_MPEG4, "bf": "2"}),
    Format("libvpx-vp9", "webm", "webm", 1, options=_VP9),
    Format("mjpeg", "avi", "avi", 1, pixels="yuvj420p"),
)


def encode(path: Path, frames: Iterable[Picture], form: Format, fps: Fraction, width: int, height: int) -> int:
    """Write uint8 RGB [height, width, 3] frames to ``path``, under a temporary name until done; return its bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    # bitexact omits dates, random identifiers and encoder names; threads would make rate control vary.
    with av.open(str(temporary), "w", format=form.container, container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(form.codec, rate=fps, options={"flags": "+bitexact", **form.options})
        stream.width, stream.height, stream.pix_fmt = width, height, form.pixels
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    os.replace(temporary, path)  # noqa: PTH105 - shows both names on one line
    return path.stat().st_size

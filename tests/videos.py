"""Small real video files for tests, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TICKS = 1000  # time base of the frames' times: milliseconds


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A picture that tells its number: a bright bar whose place and colour move with it, on a gradient."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns * 160 // width, rows * 160 // height, (rows + columns) % 128], axis=-1).astype(np.uint8)
    left = (number * 5) % max(1, width - 8)
    image[:, left : left + 8] = ((number * 37) % 256, 255, (number * 91) % 256)
    return image


def make_video(
    path: Path,
    *,
    frames: int = 60,
    fps: int = 15,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    gop: int = 20,
    options: dict[str, str] | None = None,
    times_ms: Sequence[int] | None = None,
    container: str | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames`` numbered pictures, shown at ``times_ms`` or at ``fps``; ``muxer``: its options."""
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, TICKS)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, TICKS)
            else:
                frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def remux(source: Path, target: Path, change: Callable[[int, Any], bool], muxer: dict[str, str] | None = None) -> Path:
    """Copy the packets of a video; ``change`` gets each with its number, may alter it, and says whether it stays."""
    with av.open(str(source)) as inside, av.open(str(target), "w", options=muxer or {}) as outside:
        stream = outside.add_stream_from_template(inside.streams.video[0], opaque=True)
        for number, packet in enumerate(p for p in inside.demux(video=0) if p.size):
            if change(number, packet):
                packet.stream = stream
                outside.mux(packet)
    return target

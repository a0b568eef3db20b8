"""Make clips that cost as much to decode as real ones: a panning textured scene, moving things, and noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.manifest.sources.folder import VIDEO_SUFFIXES

WIDTH: Final = 320
HEIGHT: Final = 240
FPS: Final = 25
GOP: Final = 250
SHORT_S: Final = (10.0, 30.0)
NOISES: Final = 16
THINGS: Final = 5

Plane = NDArray[np.int16]


@dataclass(frozen=True)
class Group:
    """Clips that are timed together."""

    title: str
    clips: list[Path]
    repetitions: int


def short_clips(folder: Path, count: int) -> list[Path]:
    """Make ``count`` clips of 10 to 30 s, evenly over that range, one keyframe in 250 frames."""
    return [
        _encode(folder / f"short-{number:02d}-of-{count}.mp4", number, seconds, gop=GOP, preset="medium")
        for number, seconds in enumerate(short_lengths(count))
    ]


def short_lengths(count: int) -> list[float]:
    """Return the seconds of each of ``count`` short clips."""
    lengths: list[float] = np.linspace(*SHORT_S, count).tolist()
    return lengths


def long_clip(folder: Path, minutes: float, gop: int) -> Path:
    """Make one long clip, one keyframe in ``gop`` frames."""
    return _encode(folder / f"long-{minutes:g}-gop-{gop}.mp4", 1000, 60 * minutes, gop=gop, preset="veryfast")


def clips_in(folder: Path) -> list[Path]:
    """List the video files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix[1:].lower() in VIDEO_SUFFIXES)


def _encode(path: Path, seed: int, seconds: float, *, gop: int, preset: str) -> Path:
    if path.is_file():
        return path
    temporary = path.with_suffix(".tmp")
    options = {"preset": preset, "crf": "23", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in _pictures(seed, round(seconds * FPS)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return temporary.rename(path)


def _pictures(seed: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield yuv420p pictures [HEIGHT * 3 / 2, WIDTH]; the camera changes direction and speed every five seconds."""
    random = np.random.default_rng(seed)
    luma = _texture(random, 3 * HEIGHT, 3 * WIDTH, 45)
    chroma = [_texture(random, 3 * HEIGHT // 2, 3 * WIDTH // 2, 20) for _ in range(2)]
    things = [_texture(random, 60, 60, 60) for _ in range(THINGS)]
    noises = [random.normal(0, 2.0, (HEIGHT, WIDTH)).astype(np.int16) for _ in range(NOISES)]
    phases, speeds = random.uniform(0, 6, (THINGS, 2)), random.uniform(0.01, 0.06, (THINGS, 2))
    camera, way = np.array([HEIGHT, WIDTH], float), np.zeros(2)
    for number in range(count):
        if number % (5 * FPS) == 0:
            way = random.uniform(-2.5, 2.5, 2)
        camera = np.clip(camera + way, 0, [2 * HEIGHT - 1, 2 * WIDTH - 1])
        y, x = camera.astype(int)
        picture = luma[y : y + HEIGHT, x : x + WIDTH].copy()
        for thing, phase, speed in zip(things, phases, speeds, strict=True):
            top, left = ((np.sin(phase + speed * number) + 1) / 2 * [HEIGHT - 60, WIDTH - 60]).astype(int)
            picture[top : top + 60, left : left + 60] = thing
        picture += noises[random.integers(NOISES)]
        half = [c[y // 2 : (y + HEIGHT) // 2, x // 2 : (x + WIDTH) // 2][: HEIGHT // 2, : WIDTH // 2] for c in chroma]
        planes = [picture.ravel(), *(plane.ravel() for plane in half)]
        yield np.clip(np.concatenate(planes), 16, 235).astype(np.uint8).reshape(HEIGHT * 3 // 2, WIDTH)


def _texture(random: np.random.Generator, height: int, width: int, contrast: float) -> Plane:
    """Make noise at several scales, with stronger coarse ones, as in photographs."""
    total = np.zeros((height, width))
    for scale in (64, 32, 16, 8, 4):
        coarse = random.normal(0, 1, (height // scale + 2, width // scale + 2)).astype(np.float32)
        total += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) * scale**0.5
    return (128 + contrast * total / total.std()).astype(np.int16)

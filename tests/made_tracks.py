"""Made video files of many kinds, from a seed: codecs, containers, rates, GOPs, cut starts, holes, lost packets."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av.error

from tests.videos import make_video, remux

SIZE = (64, 48)

X264 = {"preset": "ultrafast", "tune": "psnr"}


@dataclass(frozen=True)
class Codec:
    """An encoder, containers that take what it makes, and choices of its options."""

    name: str
    suffixes: tuple[str, ...]
    options: tuple[dict[str, str], ...]
    rates: tuple[Fraction, ...] = (Fraction(30), Fraction(25), Fraction(24), Fraction(30000, 1001), Fraction(15))


def x265(settings: str) -> dict[str, str]:
    return {"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:frame-threads=1:{settings}"}


CODECS = (
    Codec(
        "libx264",
        (".mp4", ".ts", ".mkv", ".flv", ".avi", ".mov"),
        (
            {**X264, "bf": "0"},
            {**X264, "bf": "3", "b_strategy": "0"},
            {**X264, "bf": "3", "x264-params": "open-gop=1:scenecut=0:b-adapt=0:bframes=3:b-pyramid=normal"},
            {**X264, "bf": "2", "x264-params": "open-gop=1:scenecut=0:b-adapt=0:bframes=2"},
            {**X264, "x264-params": "intra-refresh=1:bframes=0"},
            {**X264, "flags": "+ildct+ilme", "x264-params": "interlaced=1:bframes=2:b-adapt=0"},
        ),
    ),
    Codec(
        "libx265",
        (".mp4", ".ts", ".mkv"),
        (
            x265("bframes=0"),
            x265("bframes=3:b-adapt=0:open-gop=1:scenecut=0"),
            x265("bframes=2:b-adapt=0:open-gop=0:radl=2:scenecut=0"),
        ),
    ),
    Codec(
        "mpeg2video",
        (".ts", ".mpg", ".mkv", ".avi", ".mp4"),
        (
            {"bf": "0"},
            {"bf": "2", "b_strategy": "0"},
            {"bf": "2", "b_strategy": "0", "flags": "+cgop", "sc_threshold": "1000000000"},
        ),
        (Fraction(25), Fraction(30), Fraction(24), Fraction(30000, 1001)),
    ),
    Codec(
        "libvpx",
        (".webm", ".mkv"),
        (
            {"deadline": "realtime", "cpu-used": "8"},
            {
                "deadline": "good",
                "cpu-used": "5",
                "auto-alt-ref": "1",
                "lag-in-frames": "10",
                "arnr-maxframes": "3",
                "b": "60000",
            },
        ),
    ),
    Codec(
        "libvpx-vp9",
        (".webm", ".mkv", ".mp4"),
        (
            {"deadline": "realtime", "cpu-used": "8"},
            {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "10", "b": "60000"},
        ),
    ),
    Codec(
        "libsvtav1",
        (".mp4", ".webm", ".mkv"),
        ({"preset": "12", "svtav1-params": "lp=1"}, {"preset": "12", "svtav1-params": "lp=1:pred-struct=1"}),
    ),
    Codec("mpeg4", (".mp4", ".avi", ".mkv"), ({"bf": "0"}, {"bf": "2"}), (Fraction(25), Fraction(30))),
)
WEIGHTS = (6, 2, 3, 2, 2, 1, 1)


@dataclass(frozen=True)
class Made:
    """A made file and, in words, how it came to be; ``bytes_damaged``: what of it is wrong lies inside of packets."""

    path: Path
    story: str
    bytes_damaged: bool


def make_track(folder: Path, seed: int) -> Made:
    """Make the file of a seed."""
    draw = random.Random(seed)
    codec = draw.choices(CODECS, WEIGHTS)[0]
    options, rate, suffix = draw.choice(codec.options), draw.choice(codec.rates), draw.choice(codec.suffixes)
    frames, gop = draw.randint(24, 72), draw.choice((8, 12, 25, 250))
    variable = draw.random() < 0.25 and not codec.name.startswith("mpeg") and suffix in (".mkv", ".webm", ".mp4")
    times = variable_times(draw, frames) if variable else None
    source = folder / f"{seed}{suffix}"
    make_video(source, frames=frames, fps=rate, size=SIZE, codec=codec.name, gop=gop, options=options, times_ms=times)  # type: ignore[arg-type]
    try:
        path, what = damaged(draw, source, frames, variable=variable)
    except av.error.FFmpegError:  # packets that the container does not take without the lost ones
        path, what = source, "whole"
    rates = "variable" if times else f"{rate}"
    return Made(
        path,
        f"seed {seed}: {codec.name}{suffix}, {frames} frames, {rates} fps, GOP {gop}, {options}, {what}",
        "byte" in what,
    )


def variable_times(draw: random.Random, frames: int) -> list[int]:
    """Milliseconds of frames with uneven gaps, a few of them long."""
    return [0, *accumulate(draw.choice((17, 33, 34, 40, 50, 66, 100, 700)) for _ in range(frames - 1))]


def damaged(draw: random.Random, source: Path, frames: int, *, variable: bool) -> tuple[Path, str]:
    """Leave a file as it is, or cut its start, lose packets, or damage its bytes.

    Packets that are missing without a gap in steady times, or any other sign, nobody can miss before decoding.
    """
    path = source.with_stem(f"{source.stem}-b")
    kind = draw.choice(("whole", "whole", "cut start", "lost", "hole", "truncated", "cut out"))
    if kind == "cut start":
        first = draw.randint(1, frames * 2 // 3)
        return remux(source, path, lambda number, packet: number >= first), f"cut at packet {first}"  # noqa: ARG005
    if kind == "lost" and variable:
        kind = "whole"
    if kind == "lost":
        lost = set(draw.sample(range(frames), draw.randint(1, 4)))
        return remux(source, path, lambda number, packet: number not in lost), f"without packets {lost}"  # noqa: ARG005
    data = bytearray(source.read_bytes())
    at, length = draw.randrange(len(data) // 5, len(data)), draw.choice((64, 512, 4096))
    if kind == "hole":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "truncated":
        del data[at:]
    elif kind == "cut out":
        del data[at : at + length]
    else:
        return source, "whole"
    path.write_bytes(data)
    return path, f"{kind} at byte {at} of {source.stat().st_size}, {length} bytes"

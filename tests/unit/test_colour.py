"""From YUV to RGB: the matrix and range a frame is tagged with, a rule without tags, the same bytes everywhere."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from gare.config.prepare import PrepareConfig
from pipelines.decode import decode_video, picture
from pipelines.decode.picture import to_rgb

BT709, BT601, UNTAGGED, BT2020 = (0.2126, 0.0722), (0.299, 0.114), None, (0.2627, 0.0593)
TAGS = {BT709: 1, UNTAGGED: 2, BT601: 6, BT2020: 9}  # AVCOL_SPC_*
FULL = 2  # AVCOL_RANGE_JPEG
COLOURS = [(150, 90, 200), (81, 90, 160), (100, 128, 128), (180, 110, 120), (60, 160, 110), (16, 128, 128)]


def flat(yuv: tuple[int, int, int], size: tuple[int, int], kind: str = "yuv420p") -> av.VideoFrame:
    """A frame of one colour."""
    frame = av.VideoFrame(*size, kind)
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def expected(yuv: tuple[int, int, int], weights: tuple[float, float], *, full: bool = False) -> np.ndarray:
    """RGB by the definition: luma weights of red and blue; limited range unless ``full``."""
    red, blue = weights
    y, u, v = yuv
    luma = y / 255 if full else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full else 224) for c in (u, v))
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.array([r, g, b]), 0, 255)


def close(frame: av.VideoFrame, wanted: np.ndarray) -> bool:
    """Whether the frame becomes this colour, to a rounding, and resized by swscale to two."""
    made = [to_rgb(frame, VideoReformatter()), to_rgb(frame, VideoReformatter(), (32, 24))]
    assert [one.shape for one in made] == [(frame.height, frame.width, 3), (24, 32, 3)]
    return all(np.abs(one - wanted).max() <= most for one, most in zip(made, (0.6, 1.5), strict=True))


@pytest.mark.parametrize("yuv", COLOURS[::2])
@pytest.mark.parametrize("size", [(64, 48), (1280, 720)])
@pytest.mark.parametrize("weights", [BT709, BT601, BT2020])
def test_a_tagged_matrix_is_honoured_whatever_the_size(yuv, size, weights):
    frame = flat(yuv, size)
    frame.colorspace = TAGS[weights]
    assert close(frame, expected(yuv, weights))


@pytest.mark.parametrize("yuv", COLOURS[::3])
@pytest.mark.parametrize(
    ("size", "weights"),
    [
        ((320, 240), BT601),
        ((720, 576), BT601),
        ((1278, 718), BT601),
        ((1280, 536), BT709),
        ((960, 720), BT709),
        ((720, 1280), BT709),
        ((1920, 1080), BT709),
    ],
)
@pytest.mark.parametrize("tag", [2, 3])
def test_without_a_tag_hd_is_bt709_and_the_rest_bt601(yuv, size, weights, tag):
    frame = flat(yuv, size)
    frame.colorspace = tag
    assert close(frame, expected(yuv, weights))


@pytest.mark.parametrize("weights", [BT709, BT601])
@pytest.mark.parametrize("kind", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p"])
def test_full_range_is_honoured_by_its_tag_and_by_its_format(weights, kind):
    yuv = COLOURS[0]
    frame = flat(yuv, (64, 48), kind)
    frame.colorspace = TAGS[weights]
    assert close(frame, expected(yuv, weights, full=kind == "yuvj420p"))
    frame.color_range = FULL
    assert close(frame, expected(yuv, weights, full=True))


@pytest.mark.parametrize("kind", ["rgb24", "gbrp", "bgr0", "gray"])
def test_frames_without_a_matrix_stay_as_they_are(kind):
    size = (1280, 720)
    if kind == "gray":
        frame = flat((99,), size, kind)  # type: ignore[arg-type]
        wanted = np.array([99, 99, 99])
    else:
        wanted = np.array([200, 100, 50], np.uint8)
        frame = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), wanted), format="rgb24").reformat(format=kind)
    assert close(frame, wanted)


def test_a_palette_is_looked_up():
    rng = np.random.default_rng(0)
    palette, numbers = (rng.integers(0, 256, shape, np.uint8) for shape in ((256, 4), (720, 1280)))  # alpha, R, G, B
    frame = av.VideoFrame.from_ndarray((numbers, palette), format="pal8")
    np.testing.assert_array_equal(to_rgb(frame, VideoReformatter()), palette[numbers][..., 1:])


def encoded(path: Path, tag: int, size: tuple[int, int]) -> Path:
    """A video of one colour, tagged."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.colorspace = "yuv420p", tag
        for number in range(2):
            frame = flat(COLOURS[3], size)
            frame.colorspace, frame.pts = tag, number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_files_that_differ_in_their_tag_alone_differ_in_their_colours(tmp_path):
    for size, of_untagged in (((64, 48), BT601), ((1280, 720), BT709)):
        for weights, tag in TAGS.items():
            path = encoded(tmp_path / f"{tag}-{size[0]}.mp4", tag, size)
            stored = decode_video(path, recipe=PrepareConfig(short_side=32, crop=32)).frames[0]
            wanted = expected(COLOURS[3], weights or of_untagged)
            assert np.abs(stored - wanted).max() <= 1.01


def test_the_conversion_has_no_bias():
    rng = np.random.default_rng(0)
    yuv = [
        np.repeat(np.repeat(rng.integers(low, high, (30, 40)), 8, 0), 8, 1)
        for low, high in [(40, 220)] + [(100, 156)] * 2
    ]
    frame = av.VideoFrame(320, 240, "yuv420p")
    for plane, values, step in zip(frame.planes, yuv, (1, 2, 2), strict=True):
        lines = np.zeros((plane.height, plane.line_size), np.uint8)
        lines[:, : plane.width] = values[::step, ::step]
        plane.update(lines.tobytes())
    off = to_rgb(frame, VideoReformatter()) - np.moveaxis(expected(tuple(yuv), BT601), 0, -1)
    inside = off.reshape(30, 8, 40, 8, 3)[:, 2:6, :, 2:6]  # colours are interpolated where blocks meet
    assert np.abs(inside).max() <= 0.6
    assert np.abs(inside.mean((0, 1, 2, 3))).max() < 0.05


CONVERT = """
import ctypes, sys
import av, hashlib, json
import numpy as np
from av.video.reformatter import VideoReformatter
if sys.argv[1] == "plain":
    ctypes.CDLL(sys.argv[2]).av_force_cpu_flags(0)
from tests.unit.test_colour import converted
print(json.dumps(converted()))
"""


def converted() -> dict[str, str]:
    """Digests of noise in many formats and sizes, converted as this software does, and quickly."""
    quick = Interpolation.BILINEAR
    digests = {}
    for kind in (
        "yuv420p",
        "yuvj420p",
        "yuv422p",
        "yuv444p",
        "nv12",
        "yuv420p10le",
        "yuv444p12le",
        "yuva420p",
        "gbrp",
        "pal8",
    ):
        for size in ((64, 48), (97, 61), (322, 178), (1280, 36)):
            frame = av.VideoFrame(*size, kind)
            rng = np.random.default_rng(0)
            for plane in frame.planes:
                noise = rng.bytes(plane.buffer_size)
                if "10le" in kind or "12le" in kind:  # 10 or 12 of 16 bits
                    noise = (np.frombuffer(noise, np.uint16) & (1023 if "10le" in kind else 4095)).tobytes()
                plane.update(noise)
            for name, made in (
                ("whole", to_rgb(frame, VideoReformatter())),
                ("resized", to_rgb(frame, VideoReformatter(), (50, 36))),
                ("quick", VideoReformatter().reformat(frame, format="rgb24", interpolation=quick).to_ndarray()),
            ):
                digests[f"{name} {kind} {size}"] = hashlib.sha256(made.tobytes()).hexdigest()
    return digests


def test_bytes_do_not_depend_on_the_processors_vector_instructions():
    """Against FFmpeg without any of them, in a process of its own, where they can be turned off."""
    maps = Path("/proc/self/maps")
    loaded = (
        {line.split()[-1] for line in maps.read_text().splitlines() if "libavutil" in line} if maps.exists() else ()
    )
    found = [path for path in loaded if hasattr(ctypes.CDLL(path), "av_force_cpu_flags")]
    if not found:
        pytest.skip("FFmpeg's vector instructions cannot be turned off here")
    printed = [
        subprocess.run(
            [sys.executable, "-c", CONVERT, which, found[0]],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        ).stdout
        for which in ("vector", "plain")
    ]
    vector, plain = (json.loads(text) for text in printed)
    different = {name for name in vector if vector[name] != plain[name]}
    assert {name.split()[0] for name in different} <= {"quick"}
    if not different:
        pytest.skip("this processor has no vector instructions that FFmpeg uses for the quick conversion")


def test_the_flags_are_those_of_exact_conversion():
    for flags in (picture.CONVERT, picture.RESIZE):
        assert flags & Interpolation.ACCURATE_RND
        assert flags & Interpolation.BITEXACT

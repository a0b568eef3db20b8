"""Pixels that are not square: stored as players show them, or as they are."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from PIL import Image

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import DecodeError, decode_in_order, decode_video
from pipelines.decode.picture import Orientation, can_be_shape, picture
from pipelines.decode.track import pixel_shape
from tests.unit.test_orientation import matrix, with_matrix

KINDS = {
    "mp4": ("libx264", ".mp4", {"bf": "2"}),
    "mkv": ("libx264", ".mkv", {"bf": "2"}),
    "ts": ("libx264", ".ts", {"bf": "2"}),
    "raw": ("libx264", ".h264", {"bf": "0"}),
    "hevc": ("libx265", ".mp4", {"x265-params": "log-level=none"}),
    "mpeg2": ("mpeg2video", ".mpg", {"bf": "2"}),
    "mpeg4": ("mpeg4", ".avi", {}),
    "vp9": ("libvpx-vp9", ".mp4", {"deadline": "realtime", "cpu-used": "8"}),
}
WHOLE = PrepareConfig(short_side=48, crop=None, policy="uniform", max_frames=3)


def disc(width: int, height: int, shape: Fraction) -> np.ndarray:
    """A white disc on black that is round where pixels are of this shape, RGB [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    x, y = (columns - width / 2) * float(shape), rows - height / 2
    inside = np.hypot(x, y) < 0.4 * min(width * float(shape), height)
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=-1)


def film(path: Path, size: tuple[int, int], shape: Fraction, codec: str = "libx264", **options: str) -> Path:
    """A few frames of a disc, tagged with the shape of their pixels."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.sample_aspect_ratio = "yuv420p", shape
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(disc(*size, shape), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def sides(frame: np.ndarray) -> tuple[int, int]:
    """Width and height of what is bright."""
    bright = frame[..., 0] > 127
    return int(bright.any(0).sum()), int(bright.any(1).sum())


def is_round(frame: np.ndarray) -> bool:
    """Whether what is bright is as wide as high, to two pixels."""
    across, down = sides(frame)
    return abs(across - down) <= 2 and across > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "shape"), [((96, 80), Fraction(40, 27)), ((128, 72), Fraction(3, 4))])
def test_a_disc_is_round_from_every_container(tmp_path, kind, size, shape):
    """Shown at 16:9 and 4:3, as MPEG-2 can say no others."""
    codec, suffix, options = KINDS[kind]
    path = film(tmp_path / f"a{suffix}", size, shape, codec, **options)
    decoded = decode_video(path, recipe=WHOLE)
    assert (decoded.width, decoded.height) == size
    wide, high = size[0] * shape, size[1]
    assert decoded.frames[0].shape[:2] == ((48, int(wide * 48 / high)) if wide > high else (int(high * 48 / wide), 48))
    assert all(is_round(frame) for frame in decoded.frames)
    plain = decode_in_order(path, recipe=WHOLE)
    np.testing.assert_array_equal(decoded.frames, plain.frames)
    as_stored = decode_video(path, recipe=WHOLE.model_copy(update={"square_pixels": False})).frames[0]
    assert as_stored.shape == (48, size[0] * 48 // size[1], 3)
    assert not is_round(as_stored)


@pytest.mark.parametrize("resize", ["pil", "swscale"])
@pytest.mark.parametrize("crop", [None, 48])
@pytest.mark.parametrize("turn", [(1, 0, 0, 1), (0, 1, -1, 0), (0, 1, 1, 0)])
def test_stretching_comes_before_turning(tmp_path, resize, crop, turn):
    path = film(tmp_path / "a.mp4", (48, 96), Fraction(4, 1))  # shown 192 x 96
    turned = with_matrix(path, tmp_path / "b.mp4", matrix(*turn))
    recipe = WHOLE.model_copy(update={"resize": resize, "crop": crop})
    frame = decode_video(turned, recipe=recipe).frames[0]
    assert is_round(frame)
    assert frame.shape[:2] == ((48, 48) if crop else (48, 96) if turn[0] else (96, 48))


@pytest.mark.parametrize("resize", ["pil", "swscale"])
def test_a_crop_is_the_centre_of_what_is_shown(resize):
    """Against resizing the whole frame to square pixels with PIL, rows before columns, and cutting then."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    image = np.asarray(small.resize((120, 90), Image.Resampling.BICUBIC))
    for shape, size in ((Fraction(32, 27), (75, 48)), (Fraction(1, 2), (48, 72)), (Fraction(5, 2), (160, 48))):
        recipe = PrepareConfig(short_side=48, crop=48, resize=resize)
        made = picture(av.VideoFrame.from_ndarray(image, format="rgb24"), VideoReformatter(), recipe, shape)
        wide = Image.fromarray(image).resize((size[0], 90), Image.Resampling.BICUBIC)
        whole = np.asarray(wide.resize(size, Image.Resampling.BICUBIC))
        left, top = round((size[0] - 48) / 2), round((size[1] - 48) / 2)
        wanted = whole[top : top + 48, left : left + 48]
        assert np.abs(made.astype(int) - wanted).mean() <= (0 if resize == "pil" else 1.5)


def stated(ratio: Fraction | None) -> Fraction:
    """What a track makes of the aspect ratio that its file states."""
    return pixel_shape(SimpleNamespace(sample_aspect_ratio=ratio))


def test_no_ratio_and_absurd_ones_are_square():
    for ratio in (None, Fraction(0), Fraction(-4, 3), Fraction(11), Fraction(1, 11), Fraction(12517377)):
        assert stated(ratio) == 1
    for ratio in (Fraction(1), Fraction(8, 3), Fraction(10), Fraction(1, 10), Fraction(639, 640)):
        assert stated(ratio) == ratio


def test_a_strip_is_one_as_it_is_shown():
    square = av.VideoFrame.from_ndarray(np.zeros((100, 100, 3), np.uint8), format="rgb24")
    strip = av.VideoFrame.from_ndarray(np.zeros((20, 200, 3), np.uint8), format="rgb24")
    recipe = PrepareConfig(short_side=16, crop=None, limits=LimitsConfig(max_aspect=5))
    with pytest.raises(DecodeError, match=r"too_elongated: 100 x 100 pixels of shape 6; set prepare.crop"):
        picture(square, VideoReformatter(), recipe, Fraction(6))
    for shape in (Fraction(1, 2), Fraction(1, 10)):
        made = picture(strip, VideoReformatter(), recipe, shape, Orientation(swap=True))
        assert can_be_shape(recipe, *made.shape[:2])


def patched(path: Path, before: bytes, after: bytes) -> Path:
    """The same file with some bytes changed that are there once."""
    data = path.read_bytes()
    assert data.count(before) == 1
    assert len(before) == len(after)
    path.write_bytes(data.replace(before, after))
    return path


def test_the_container_counts_before_the_codec(tmp_path):
    path = film(tmp_path / "a.mp4", (96, 80), Fraction(4, 3))
    patched(path, b"pasp" + struct.pack(">II", 4, 3), b"pasp" + struct.pack(">II", 2, 1))
    assert decode_video(path, recipe=WHOLE).frames[0].shape == (48, 115, 3)


def test_the_display_size_of_matroska_is_its_shape(tmp_path):
    path = film(tmp_path / "a.webm", (96, 80), Fraction(1), "libvpx-vp9", deadline="realtime")
    # The track's length of a frame gives way to the video's DisplayWidth of 144, and 4 bytes of nothing.
    size = bytes.fromhex("b08160 ba8150")
    before, after = bytes.fromhex("23e38384 02625a00 e086") + size, bytes.fromhex("e08a") + size
    patched(path, before, after + bytes.fromhex("54b08190 ec820000"))
    assert decode_video(path, recipe=WHOLE).frames[0].shape == (48, 86, 3)


def test_the_ellipse_of_the_faults_is_stored_round(fixtures_dir):
    path = fixtures_dir / "faults" / "12-pixel-aspect" / "sar.mp4"  # 240 x 480 pixels of shape 8:3
    frames = decode_video(path, recipe=PrepareConfig(crop=None)).frames
    assert {frame.shape for frame in frames} == {(224, 298, 3)}
    stored = decode_video(path, recipe=PrepareConfig(crop=None, square_pixels=False)).frames
    assert {frame.shape for frame in stored} == {(448, 224, 3)}

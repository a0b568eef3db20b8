"""From a decoded frame to the stored picture: the same as resizing with PIL and cropping then."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import DecodeError, decode_in_order, decode_video
from pipelines.decode.picture import can_be_shape, cut, picture, resized
from tests.videos import make_video

SIZES = [(320, 240), (240, 320), (640, 360), (1920, 1080), (426, 240), (97, 61), (224, 224), (64, 300)]


def natural(width: int, height: int) -> np.ndarray:
    """A picture with slopes, edges and some noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns * 255 / width, rows * 255 / height, 128 + 100 * np.sin(columns / 9) * np.cos(rows / 7)])
    image[:, height // 3 : height // 2, width // 4 : width // 2] = 240
    noise = np.random.default_rng(0).normal(0, 6, image.shape[1:])
    return np.clip(image + noise, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def frame_of(image: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(image, format="rgb24")


def made(image: np.ndarray, **settings) -> np.ndarray:
    return picture(frame_of(image), VideoReformatter(), PrepareConfig(**settings))


def by_pil(image: np.ndarray, short: int, crop: int | None) -> np.ndarray:
    """Resize the whole frame, then cut out the centre."""
    height, width = image.shape[:2]
    shorter = min(width, height)
    new = (max(short, width * short // shorter), max(short, height * short // shorter))
    whole = Image.fromarray(image).resize(new, Image.Resampling.BICUBIC)
    if crop is None:
        return np.asarray(whole)
    left, top = round((new[0] - crop) / 2), round((new[1] - crop) / 2)
    return np.asarray(whole.crop((left, top, left + crop, top + crop)))


def difference(left: np.ndarray, right: np.ndarray) -> float:
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right).mean())


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("short", "crop"), [(224, 224), (256, 224), (64, 48), (64, 64)])
def test_cropping_before_resizing_equals_cropping_after(width, height, short, crop):
    image = natural(width, height)
    assert difference(made(image, short_side=short, crop=crop), by_pil(image, short, crop)) <= 0.01


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (1920, 1080), (320, 180)])
@pytest.mark.parametrize(("short", "crop"), [(40, 32), (256, 224), (80, 64)])
def test_even_slopes_are_no_worse(width, height, short, crop):
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns % 256, rows % 256, (rows + columns) // 3 % 256], axis=-1).astype(np.uint8)
    assert difference(made(image, short_side=short, crop=crop), by_pil(image, short, crop)) <= 0.01


@given(
    source=st.integers(1, 5000),
    short=st.integers(8, 400),
    crop=st.integers(8, 400),
    other=st.integers(1, 5000),
)
def test_a_cut_covers_what_is_kept_and_lies_in_the_source(source, short, crop, other):
    crop = min(crop, short)
    whole = resized(source, other, short)[0]
    start = round((whole - crop) / 2)
    axis = cut(source, whole, start, crop)
    assert 0 <= axis.low < axis.high <= source
    assert 0 <= axis.skip <= axis.pixels - crop
    assert axis.pixels <= 1.3 * crop
    assert (axis.low, axis.high) == pytest.approx(
        ((start - axis.skip) * source / whole, (start - axis.skip + axis.pixels) * source / whole)
    )


@settings(max_examples=60)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    short=st.integers(8, 90),
    crop=st.one_of(st.none(), st.integers(8, 90)),
    resize=st.sampled_from(["pil", "swscale"]),
)
def test_frames_of_any_size_become_what_was_asked_for(width, height, short, crop, resize):
    crop = crop and min(crop, short)
    image = np.full((height, width, 3), 77, np.uint8)
    limits = LimitsConfig(max_aspect=400)
    frame = made(image, short_side=short, crop=crop, resize=resize, limits=limits)
    assert frame.shape[:2] == ((crop, crop) if crop else resized(width, height, short)[::-1])
    assert np.abs(frame.astype(int) - 77).max() <= 2


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_an_uncropped_frame_is_pils_resize_exactly(width, height):
    image = natural(width, height)
    whole = made(image, short_side=64, crop=None)
    np.testing.assert_array_equal(whole, by_pil(image, 64, None))
    assert can_be_shape(PrepareConfig(short_side=64, crop=None), *whole.shape[:2])


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("crop", [None, 48])
def test_swscale_differs_from_pil_by_about_a_grey_level(width, height, crop):
    image = natural(width, height)
    quick = made(image, short_side=64, crop=crop, resize="swscale")
    assert difference(quick, by_pil(image, 64, crop)) < 1.5
    yuv = frame_of(image).reformat(format="yuv420p")
    recipes = [PrepareConfig(short_side=64, crop=crop, resize=resize) for resize in ("pil", "swscale")]
    assert difference(*(picture(yuv, VideoReformatter(), recipe) for recipe in recipes)) < 1.5


@pytest.mark.parametrize("resize", ["pil", "swscale"])
@pytest.mark.parametrize(("width", "height"), [(8192, 2), (2, 8192), (1024, 16)])
def test_a_strip_is_cropped_without_being_resized_whole(width, height, resize, monkeypatch):
    made_sizes = []
    original = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: made_sizes.append(size) or original(self, size, *a, **k)
    )
    square = made(natural(width, height), resize=resize)
    assert square.shape == (224, 224, 3)
    assert max(a * b for a, b in made_sizes) <= 224 * 224 * 1.3**2


@pytest.mark.parametrize("resize", ["pil", "swscale"])
def test_a_strip_that_would_be_stored_whole_is_refused(resize):
    with pytest.raises(DecodeError, match="too_elongated: 8192 x 2 pixels"):
        made(natural(8192, 2), crop=None, resize=resize)
    allowed = LimitsConfig(max_aspect=20)
    assert made(natural(300, 16), short_side=16, crop=None, limits=allowed).shape == (16, 300, 3)


@pytest.mark.parametrize("resize", ["pil", "swscale"])
def test_uncropped_frames_of_a_video_and_their_squares(tmp_path, resize):
    path = make_video(tmp_path / "a.mp4", size=(96, 64))
    settings = {"short_side": 48, "resize": resize, "policy": "uniform", "max_frames": 4}
    whole = decode_video(path, recipe=PrepareConfig(crop=None, **settings))
    square = decode_video(path, recipe=PrepareConfig(crop=48, **settings))
    assert [frame.shape for frame in whole.frames] == [(48, 72, 3)] * 4
    for large, small in zip(whole.frames, square.frames, strict=True):
        assert difference(large[:, 12:60], small) <= 0.01


def two_sizes(path, first, second):
    """A raw stream whose frames change their size."""
    with path.open("wb") as out:
        for size in (first, second):
            part = make_video(path.with_suffix(f".{size[0]}.h264"), size=size, container="h264", options={"bf": "0"})
            out.write(part.read_bytes())
    return path


def test_frames_of_two_sizes_are_stored_where_they_become_one(tmp_path):
    path = two_sizes(tmp_path / "a.h264", (96, 64), (48, 48))
    decoded = decode_video(path, recipe=PrepareConfig(short_side=32, crop=32, policy="uniform"))
    assert {frame.shape for frame in decoded.frames} == {(32, 32, 3)}
    assert (decoded.width, decoded.height) == (96, 64)
    whole = PrepareConfig(short_side=32, crop=None, policy="uniform")
    for decode in (decode_video, decode_in_order):
        with pytest.raises(DecodeError, match="mixed_shapes: Resized frames of 48 x 32 and 32 x 32 pixels"):
            decode(path, recipe=whole)
    same = two_sizes(tmp_path / "b.h264", (96, 64), (48, 32))
    assert {frame.shape for frame in decode_video(same, recipe=whole).frames} == {(32, 48, 3)}


def test_a_frame_that_cannot_be_made_rgb_is_said_to_be_one(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4")

    def fails(self, *arguments, **settings):
        raise ValueError("unsupported pixel format")

    monkeypatch.setattr("pipelines.decode.clip_job.picture", fails)
    with pytest.raises(DecodeError, match="no_decodable_video: A frame that cannot be made RGB: unsupported"):
        decode_video(path, recipe=PrepareConfig())


def test_time_bases_of_any_kind_give_the_seconds():
    from pipelines.decode.times import seconds

    pts = [7, 8, 1007, 2**62]
    assert seconds(pts, Fraction(1001, 30000)) == [float((value - 7) * Fraction(1001, 30000)) for value in pts]

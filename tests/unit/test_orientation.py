"""Display matrices: what is stored is what ffmpeg's autorotate shows, mirrors included."""

from __future__ import annotations

import math
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.config.prepare import PrepareConfig
from pipelines.decode import decode_in_order, decode_video
from pipelines.decode.picture import Orientation, orientation, to_rgb
from tests.videos import make_video

ONE = 1 << 16
# a, b, c, d of the eight matrices, and the filters that ffmpeg's autorotate puts in for them (fftools/ffmpeg_filter.c).
EIGHT = {
    "as stored": ((1, 0, 0, 1), []),
    "mirrored": ((-1, 0, 0, 1), ["hflip"]),
    "upside down": ((1, 0, 0, -1), ["vflip"]),
    "turned by 180": ((-1, 0, 0, -1), ["hflip", "vflip"]),
    "clockwise": ((0, 1, -1, 0), ["transpose=clock"]),
    "anticlockwise": ((0, -1, 1, 0), ["transpose=cclock"]),
    "transposed": ((0, 1, 1, 0), ["transpose=cclock_flip"]),
    "transposed the other way": ((0, -1, -1, 0), ["transpose=clock_flip"]),
}


def matrix(a: float, b: float, c: float, d: float) -> list[int]:
    """FFmpeg's nine integers."""
    return [round(a * ONE), round(b * ONE), 0, round(c * ONE), round(d * ONE), 0, 0, 0, 1 << 30]


def autorotate_filters(entries: list[int]) -> list[str]:
    """What ffmpeg's autorotate puts in for a matrix, as its source says it; for multiples of 90 degrees."""
    a, b, c, d = (entries[i] / ONE for i in (0, 1, 3, 4))
    theta = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    theta -= 360 * math.floor(theta / 360 + 0.9 / 360)
    if abs(theta - 90) < 1:
        return ["transpose=cclock_flip" if c > 0 else "transpose=clock"]
    if abs(theta - 180) < 1:
        return ["hflip"] * (a < 0) + ["vflip"] * (d < 0)
    if abs(theta - 270) < 1:
        return ["transpose=clock_flip" if c < 0 else "transpose=cclock"]
    return ["vflip"] if d < 0 else []


def filtered(rgb: np.ndarray, filters: list[str]) -> np.ndarray:
    """The picture after these filters of FFmpeg's own."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=rgb.shape[1], height=rgb.shape[0], format="rgb24", time_base=1)
    graph.link_nodes(
        source, *(graph.add(*text.split("=")) for text in [*filters, "format=rgb24"]), graph.add("buffersink")
    ).configure()
    graph.push(av.VideoFrame.from_ndarray(rgb, format="rgb24"))
    return graph.pull().to_ndarray()


def with_matrix(source: Path, target: Path, entries: list[int]) -> Path:
    """The same packets with a display matrix."""
    with av.open(str(source)) as inside, av.open(str(target), "w") as outside:
        stream = outside.add_stream_from_template(inside.streams.video[0])
        stream.set_display_matrix(entries)
        for packet in inside.demux(video=0):
            if packet.size:
                packet.stream = stream
                outside.mux(packet)
    return target


def shown_by_ffmpeg(path: Path, filters: list[str]) -> np.ndarray:
    """The first frame of a video, turned by filters."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    return filtered(to_rgb(frame, av.video.reformatter.VideoReformatter()), filters)


@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_all_eight_orientations_are_stored_as_autorotate_shows_them(tmp_path, name, suffix):
    entries, filters = matrix(*EIGHT[name][0]), EIGHT[name][1]
    assert autorotate_filters(entries) == filters
    plain = make_video(tmp_path / "plain.mp4", frames=3, size=(98, 66))
    path = with_matrix(plain, tmp_path / f"turned{suffix}", entries)
    wanted = shown_by_ffmpeg(plain, filters)
    # At its own size nothing is resized, so the frames have to be equal; 98 - 47 and 66 - 47 are odd.
    whole = PrepareConfig(short_side=66, crop=None, policy="uniform")
    square = PrepareConfig(short_side=66, crop=47, policy="uniform")
    left, top = round((wanted.shape[1] - 47) / 2), round((wanted.shape[0] - 47) / 2)
    for decode in (decode_video, decode_in_order):
        for resize in ("pil", "swscale"):
            as_shown, cropped = (
                decode(path, recipe=recipe.model_copy(update={"resize": resize})).frames[0]
                for recipe in (whole, square)
            )
            if resize == "pil":
                np.testing.assert_array_equal(as_shown, wanted)
                np.testing.assert_array_equal(cropped, wanted[top : top + 47, left : left + 47])
            else:  # its colours are interpolated
                np.testing.assert_array_equal(cropped, as_shown[top : top + 47, left : left + 47])
                assert np.abs(as_shown.astype(int) - wanted).mean() < 2
    assert decode_video(path, recipe=whole).width == 98


@given(
    which=st.sampled_from(sorted(EIGHT)),
    off=st.floats(-44, 44),
    across=st.floats(0.05, 20),
    down=st.floats(0.05, 20),
)
def test_a_matrix_between_the_eight_counts_as_the_nearest(which, off, across, down):
    exact = EIGHT[which][0]
    angle = math.radians(off)
    turned = np.array(exact).reshape(2, 2) @ [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    assert Orientation.nearest(matrix(*turned.ravel())) == Orientation.nearest(matrix(*exact))
    stretched = exact[0] * across, exact[1] * down, exact[2] * across, exact[3] * down
    assert Orientation.nearest(matrix(*stretched)) == Orientation.nearest(matrix(*exact))


@pytest.mark.parametrize("entries", [[0] * 9, matrix(*[math.sqrt(0.5)] * 2, -math.sqrt(0.5), math.sqrt(0.5))])
def test_a_matrix_of_zeros_and_one_in_the_middle_change_nothing(entries):
    assert Orientation.nearest(entries) == Orientation()


def test_upright_is_a_view_with_rows_and_columns_swapped_last():
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(Orientation(columns=True).upright(stored), stored[:, ::-1])
    np.testing.assert_array_equal(Orientation(rows=True).upright(stored), stored[::-1])
    turned = Orientation(rows=True, swap=True).upright(stored)
    assert turned.base is not None
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))


def test_the_mirrored_video_of_the_faults_is_stored_mirrored(fixtures_dir):
    folder = fixtures_dir / "faults" / "01-mirrored-video"
    recipe = PrepareConfig(short_side=120, crop=None)
    mirrored, as_stored = (decode_video(folder / f"{name}.mp4", recipe=recipe) for name in ("flip_h", "upright"))
    assert mirrored.timestamps_s == as_stored.timestamps_s
    for one, other in zip(mirrored.frames, as_stored.frames, strict=True):
        np.testing.assert_array_equal(one, other[:, ::-1])
        assert (one != np.rot90(other, 2)).any()


def test_a_matrix_is_found_beside_side_data_that_pyav_does_not_know(fixtures_dir):
    found = {}
    for name in ("mirrored", "rotated"):
        with av.open(str(fixtures_dir / "clips" / "good" / f"tc_gradient_{name}.heic")) as container:
            frame = next(container.decode(video=0))
        with pytest.raises(ValueError, match="not a valid Type"):
            frame.side_data  # noqa: B018
        found[name] = orientation(frame)
    assert found == {"mirrored": Orientation(columns=True), "rotated": Orientation(rows=True, swap=True)}


def with_message(source: Path, target: Path, entries: list[int] | None = None) -> Path:
    """The H.264 of a .ts, which says itself that it is upside down, in a container with a matrix or without."""
    with av.open(str(source)) as inside, av.open(str(target), "w") as outside:
        stream = outside.add_stream_from_template(inside.streams.video[0])
        stream.set_display_matrix(entries)
        insert = "h264_metadata=display_orientation=insert:flip=vertical"
        message = av.BitStreamFilterContext(insert, inside.streams.video[0])
        for packet in inside.demux(video=0):
            for changed in message.filter(packet if packet.size else None):
                changed.time_base, changed.stream = inside.streams.video[0].time_base, stream
                outside.mux(changed)
    return target


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_what_an_h264_stream_says_once_holds_for_all_of_its_frames(tmp_path, suffix):
    plain = make_video(tmp_path / "plain.ts", frames=30, gop=10, options={"bf": "2"})
    path = with_message(plain, tmp_path / f"message{suffix}")
    recipe = PrepareConfig(short_side=64, crop=None, policy="uniform", max_frames=7)
    for decode in (decode_video, decode_in_order):
        for clip in ({}, {"start_s": 0.8}):
            frames, wanted = (decode(one, recipe=recipe, **clip).frames for one in (path, plain))
            np.testing.assert_array_equal(frames, np.stack(wanted)[:, ::-1])


def test_the_containers_matrix_counts_before_the_streams_message(tmp_path):
    plain = make_video(tmp_path / "plain.ts", frames=3)
    path = with_message(plain, tmp_path / "both.mp4", matrix(-1, 0, 0, 1))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert [data.type.name for data in frame.side_data].count("DISPLAYMATRIX") == 2
    recipe = PrepareConfig(short_side=64, crop=None, policy="uniform")
    frames, wanted = (decode_video(one, recipe=recipe).frames for one in (path, plain))
    np.testing.assert_array_equal(frames, np.stack(wanted)[:, :, ::-1])

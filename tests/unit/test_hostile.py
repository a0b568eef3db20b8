"""Odd and hostile files, made on the spot: each is decoded rightly or fails with its kind."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import KINDS, DecodeError, decode_in_order, decode_video
from pipelines.decode.errors import Budget
from pipelines.decode.track import Track
from tests.unit.test_decode import RECIPE, assert_same, failure
from tests.videos import make_video, picture, remux

FOUR_PER_SECOND = PrepareConfig(short_side=64, crop=48, candidate_fps=4.0, max_frames=30)


def both(path: Path, recipe: PrepareConfig = FOUR_PER_SECOND):
    """The video, the same with and without the plan."""
    decoded = decode_video(path, recipe=recipe)
    assert_same(decoded, decode_in_order(path, recipe=recipe))
    return decoded


def boxes(data: bytes, name: bytes) -> int:
    """Where the content of a box starts."""
    return data.index(name) + 4


def changed(path: Path, target: str, change) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    copy = path.with_name(target)
    copy.write_bytes(bytes(data))
    return copy


# The container


def test_an_mp4_without_its_index_is_unreadable(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    assert failure(path).kind == "unreadable"


def test_an_mp4_damaged_behind_its_index_is_partial(tmp_path):
    whole = make_video(tmp_path / "a.mp4", frames=120, muxer={"movflags": "faststart"})
    path = changed(whole, "cut.mp4", lambda data: data.__delitem__(slice(len(data) // 2, None)))
    decoded = both(path)
    assert decoded.notes == ["partial"]
    assert 0 < decoded.duration_s < 5
    assert both(whole).notes == []


def test_a_header_without_data_has_no_packets(tmp_path):
    path = make_video(tmp_path / "a.mp4", muxer={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])
    assert failure(path).kind == "no_packets"


def test_a_codec_nobody_knows_is_no_decodable_video(tmp_path):
    def rename(data):
        at = data.index(b"avc1", data.index(b"stsd"))
        data[at : at + 4] = b"zzzz"

    path = changed(make_video(tmp_path / "a.mp4"), "b.mp4", rename)
    assert failure(path).kind == "no_decodable_video"


def test_metadata_that_is_no_text_is_ignored(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "NO TITLE AT ALL"
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 96, 64), format="rgb24")))
        out.mux(stream.encode())
    data = path.read_bytes()
    assert b"NO TITLE AT ALL" in data
    path.write_bytes(data.replace(b"NO TITLE AT ALL", b"\xff\xfe\x00\xc3\x28" * 3))
    assert len(both(path).frames) == 8


@pytest.mark.parametrize("duration", [0, 1, 2**31 - 1])
def test_a_lie_about_the_duration_changes_nothing(tmp_path, duration):
    path = make_video(tmp_path / "a.mp4")

    def lie(data):
        for name in (b"mvhd", b"mdhd"):
            at = boxes(data, name) + 16
            data[at : at + 4] = struct.pack(">I", duration)

    lying = changed(path, "b.mp4", lie)
    assert lying.read_bytes() != path.read_bytes()
    assert_same(both(lying), both(path))
    assert both(lying).duration_s == pytest.approx(4.0)


def test_a_lie_about_the_size_changes_nothing(tmp_path):
    path = make_video(tmp_path / "a.mp4")

    def lie(data):
        at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
        assert struct.unpack(">HH", data[at : at + 4]) == (96, 64)
        data[at : at + 4] = struct.pack(">HH", 16000, 3)

    assert_same(both(changed(path, "b.mp4", lie)), both(path))


def packet(size: int) -> SimpleNamespace:
    return SimpleNamespace(size=size, is_corrupt=False, pts=None)


def demuxing(*readings):
    """A track whose container gives one of the ``readings`` after the other, each until it fails."""
    waiting = iter(readings)
    container = SimpleNamespace(demux=lambda stream: next(waiting), format=SimpleNamespace(name="mpegts"))  # noqa: ARG005
    return Track(container, None, None)


def test_an_error_while_reading_loses_only_what_it_hides():
    def failing(*sizes):
        yield from map(packet, sizes)
        raise IndexError("list index out of range")  # MPEG-TS with a stream that starts late

    track = demuxing(failing(1, 0), failing(), iter([packet(2), packet(3)]))
    assert [one.size for one in track.demux(Budget(9.0), 10)] == [1, 2, 3]
    assert track.damaged


def test_reading_that_only_fails_ends():
    def failing():
        raise av.error.InvalidDataError(1, "")
        yield

    track = demuxing(iter([packet(1), *()]), *(failing() for _ in range(10**4)))
    track.container.demux(None)
    with pytest.raises(DecodeError, match="no_packets"):
        list(track.demux(Budget(9.0), 10))
    assert track.failures < 100


# The tracks


def two_tracks(path: Path, first: dict, second: dict) -> Path:
    """A file with two video tracks: ``codec``, ``size`` and ``disposition`` of each."""
    with av.open(str(path), "w") as out:
        streams = []
        for given in (first, second):
            stream = out.add_stream(given.get("codec", "libx264"), rate=10)
            stream.width, stream.height = given["size"]
            stream.pix_fmt = given.get("pix_fmt", "yuv420p")
            stream.disposition = given.get("disposition", Disposition(0))
            streams.append((stream, given.get("frames", 20)))
        for stream, frames in streams:
            for number in range(frames):
                image = av.VideoFrame.from_ndarray(picture(number, stream.width, stream.height), format="rgb24")
                image.pts = number
                out.mux(stream.encode(image))
            out.mux(stream.encode())
    return path


def test_a_small_first_track_is_not_the_film(tmp_path):
    path = two_tracks(tmp_path / "a.mkv", {"size": (32, 32)}, {"size": (96, 64)})
    decoded = both(path)
    assert (decoded.width, decoded.height) == (96, 64)


def test_the_default_track_is_the_film_even_when_it_is_smaller(tmp_path):
    path = two_tracks(tmp_path / "a.mkv", {"size": (96, 64)}, {"size": (64, 48), "disposition": Disposition.default})
    decoded = both(path)
    assert (decoded.width, decoded.height) == (64, 48)


COVER = {
    "codec": "mjpeg",
    "pix_fmt": "yuvj420p",
    "size": (320, 240),
    "frames": 1,
    "disposition": Disposition.attached_pic,
}


def test_cover_art_beside_a_film_is_not_taken(tmp_path):
    decoded = both(two_tracks(tmp_path / "a.mp4", {"size": (96, 64)}, COVER))
    assert (decoded.codec, decoded.width) == ("h264", 96)


def test_cover_art_alone_is_no_video(tmp_path):
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=16000)
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(sound.encode(frame))
        out.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0, 64, 64), format="rgb24")))
        out.mux(cover.encode())
        out.mux(sound.encode())
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["audio", "video"]
    assert failure(path).kind == "no_video"


# The times


def test_a_gap_of_many_minutes_is_a_gap_and_not_a_place_to_sample(tmp_path):
    times = [*range(0, 2000, 100), *range(902_000, 904_000, 100)]
    path = make_video(tmp_path / "a.mkv", frames=40, times_ms=times, options={"bf": "2"})
    decoded = both(path, PrepareConfig(short_side=32, crop=32))
    assert decoded.timestamps_s == pytest.approx([0, 1, 902, 903], abs=0.002)


def test_frames_hidden_by_an_edit_list_are_not_shown(tmp_path):
    source = make_video(tmp_path / "a.mp4", options={"bf": "0"}, gop=20)

    def earlier(number, packet):
        shift = round(0.5 / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return True

    path = remux(source, tmp_path / "b.mp4", earlier, {"avoid_negative_ts": "disabled"})
    with av.open(str(path)) as container:
        hidden = sum(packet.is_discard for packet in container.demux(video=0) if packet.size)
    assert hidden
    decoded = both(path)
    assert decoded.timestamps_s[0] == 0.0
    whole = both(source, PrepareConfig(short_side=64, crop=48, policy="uniform", max_frames=60))
    first = next(i for i, frame in enumerate(whole.frames) if np.array_equal(frame, decoded.frames[0]))
    assert first >= hidden


def test_a_few_missing_times_at_the_start_are_counted_back_from_those_there_are(tmp_path):
    def earlier(number, packet):
        packet.pts, packet.dts = packet.pts - 500, packet.dts - 500
        return True

    source = make_video(tmp_path / "a.mkv", options={"bf": "0"})
    path = remux(source, tmp_path / "b.mkv", earlier, {"avoid_negative_ts": "disabled"})
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert None in times or min(times) < 0
    decoded = both(path)
    assert decoded.notes == ["repaired_timestamps"]
    assert decoded.timestamps_s == pytest.approx(both(source).timestamps_s, abs=0.1)


def test_a_repeated_time_counts_once(tmp_path):
    last = [0]

    def repeat(number, packet):
        if number in (10, 20):
            packet.pts = packet.dts = last[0]
        last[0] = packet.pts
        return True

    source = make_video(tmp_path / "a.mkv", options={"bf": "0"})
    path = remux(source, tmp_path / "b.mkv", repeat)
    every = PrepareConfig(short_side=64, crop=48, policy="uniform", max_frames=99)
    decoded = both(path, every)
    assert len(decoded.frames) == 58
    assert decoded.timestamps_s == sorted(set(decoded.timestamps_s))
    assert decoded.notes == []
    both(path)


def test_a_stream_whose_clock_starts_anew_is_counted(tmp_path):
    parts = [make_video(tmp_path / f"{name}.ts", frames=75, options={"bf": "2"}) for name in "ab"]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    decoded = both(path)
    assert "ordinal_timestamps" in decoded.notes
    assert decoded.duration_s == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize(("fps", "frames"), [(1000, 1200), (1, 3)])
def test_unusual_rates_are_sampled_by_time(tmp_path, fps, frames):
    path = make_video(tmp_path / "a.mkv", frames=frames, fps=fps, size=(32, 32), options={"bf": "2"})
    decoded = both(path, PrepareConfig(short_side=32, crop=32))
    assert decoded.timestamps_s == pytest.approx(np.arange(-(-frames // fps)), abs=0.002)


def test_ten_hours_are_too_long_unless_the_limit_says_otherwise(tmp_path):
    times = [1_000_000 * number for number in range(37)]
    path = make_video(tmp_path / "a.mkv", frames=37, times_ms=times, size=(32, 32), options={"bf": "0"})
    assert failure(path).kind == "too_long"
    longer = PrepareConfig(short_side=32, crop=32, limits=LimitsConfig(max_seconds=40_000))
    assert both(path, longer).timestamps_s[-1] == pytest.approx(36_000)


# The frames


def test_without_any_keyframe_there_are_no_frames(tmp_path):
    source = make_video(tmp_path / "a.mp4", gop=600)
    path = remux(source, tmp_path / "b.mkv", lambda number, packet: number > 0)  # noqa: ARG005
    assert failure(path).kind == "no_frames"


def test_a_stream_that_starts_between_keyframes_keeps_what_can_be_decoded(tmp_path):
    source = make_video(tmp_path / "a.mp4", gop=20, options={"bf": "0"})
    path = remux(source, tmp_path / "b.mkv", lambda number, packet: number >= 10)  # noqa: ARG005
    decoded = both(path)
    assert 0 < len(decoded.frames) < len(both(source).frames)
    assert decoded.timestamps_s[0] == 0.0


def test_a_frame_that_grows_past_the_limit_is_never_kept(tmp_path):
    with (tmp_path / "a.h264").open("wb") as out:
        for size in ((96, 64), (640, 480)):
            part = make_video(tmp_path / f"{size[0]}.h264", size=size, container="h264", options={"bf": "0"})
            out.write(part.read_bytes())
    recipe = PrepareConfig(short_side=32, crop=32, limits=LimitsConfig(max_pixels=10_000))
    try:
        decoded = decode_video(tmp_path / "a.h264", recipe=recipe)
    except DecodeError as error:
        assert error.kind == "too_many_pixels"  # noqa: PT017
    else:
        assert "partial" in decoded.notes


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi"])  # Matroska finds its way again without a word
def test_noise_over_most_of_a_file_is_no_clean_success(tmp_path, suffix):
    path = make_video(tmp_path / f"a{suffix}", frames=90)

    def noise(data):
        at = len(data) // 3
        data[at : len(data) - len(data) // 6] = np.random.default_rng(0).bytes(len(data) - len(data) // 6 - at)

    path = changed(path, f"b{suffix}", noise)
    try:
        assert decode_video(path, recipe=RECIPE).notes
    except DecodeError as error:
        assert error.kind in KINDS.keys() - {"internal"}  # noqa: PT017


FIXTURES = {
    "audio_coverart.m4a": "no_video",
    "hls_local.m3u8": "unreadable",
    "hls_named.mp4": "unreadable",
    "html404.mp4": "unreadable",
    "huge8192.mp4": "too_many_pixels",
    "no_keyframes.mkv": "no_frames",
    "pngbomb_named.mp4": "unreadable",
    "stsz_500M.mp4": "unreadable",
    "text.mp4": "unreadable",
    "trunc50_moov_end.mp4": "unreadable",
    "zero_byte.mp4": "empty_file",
    "avc1dims_65000.mp4": "",
    "dur_lie.mp4": "",
    "fps1000.mp4": "",
    "frag.mp4": "",
    "one_frame.mp4": "",
    "rotmeta90.mp4": "",
    "tiny2x2.mkv": "",
    "wide8192x2.mkv": "",
    "frag_trunc.mp4": "partial",
    "hole_zeros.mp4": "partial",
    "nokey_start.ts": "partial",
    "raw.h264": "ordinal_timestamps",
    "trunc50_faststart.mp4": "partial",
    "trunc5_faststart.mp4": "partial",
}


def test_the_known_hostile_files_come_to_what_is_known_of_them(fixtures_dir):
    outcomes = {}
    for name in FIXTURES:
        try:
            decoded = decode_video(fixtures_dir / "clips" / "hostile" / name, recipe=RECIPE)
            outcomes[name] = " ".join(decoded.notes)
        except DecodeError as error:
            outcomes[name] = error.kind
    assert outcomes == FIXTURES

"""What packets tell of their frames: shown, never shown, or doubtful."""

from __future__ import annotations

import av
import pytest

from pipelines.decode.headers import Shows, reader, starts_slowly, unit_lengths
from tests.videos import make_video

FRAME, NOTHING, DOUBTFUL = Shows.FRAME, Shows.NOTHING, Shows.DOUBTFUL
AVCC, START = b"\x01\x64\x00\x0a\xff\xe1", b"\0\0\0\1"


def unit(*content: int) -> bytes:
    return len(content).to_bytes(4) + bytes(content)


def shows(codec: str, data: bytes, extradata: bytes = b"", macroblocks: int = 12) -> Shows:
    return reader(codec, extradata, macroblocks)(data)


def test_h264_packets_need_a_picture_and_lengths_that_fit():
    picture, message = unit(0x65, 1, 2, 3), unit(0x06, 5, 1, 9, 0x80)
    assert shows("h264", message + picture, AVCC) is FRAME
    assert shows("h264", picture, AVCC) is FRAME
    assert shows("h264", message, AVCC) is DOUBTFUL
    assert shows("h264", (message + picture)[:-1], AVCC) is DOUBTFUL
    assert shows("h264", picture + bytes(8), AVCC) is DOUBTFUL
    assert shows("h264", START + b"\x09\x10" + START + b"\x41\x9a") is FRAME
    assert shows("h264", START + b"\x09\x10") is DOUBTFUL
    assert shows("h264", b"no start code") is DOUBTFUL


def test_hevc_packets_behind_which_frames_may_be_left_out_are_doubtful():
    hvcc = bytes([1, *[0x20] * 20, 0x0F])
    for kind, wanted in ((1, FRAME), (21, FRAME), (9, FRAME), (16, DOUBTFUL), (35, DOUBTFUL)):
        assert shows("hevc", unit(kind << 1, 1, 5), hvcc) is wanted, kind
    assert shows("hevc", unit(2, 1, 5) + unit(0x48, 1), hvcc) is DOUBTFUL


def test_unseen_frames_of_vp8_and_vp9_are_told_by_their_first_byte():
    assert shows("vp8", b"\x10abc") is FRAME
    assert shows("vp8", b"\x00abc") is NOTHING
    seen, unseen, again = b"\x82abc", b"\x80abc", b"\x88"
    assert shows("vp9", seen) is FRAME
    assert shows("vp9", unseen) is NOTHING
    assert shows("vp9", again) is FRAME
    index = bytes([0xC1, len(unseen), len(seen), 0xC1])
    assert shows("vp9", unseen + seen + index) is FRAME
    assert shows("vp9", unseen + unseen + index) is NOTHING
    assert shows("vp9", seen + seen + index) is DOUBTFUL


def test_av1_units_are_counted():
    delimiter, frame, unseen = b"\x12\0", b"\x32\x03\x10ab", b"\x32\x03\x00ab"
    assert shows("libdav1d", delimiter + frame) is FRAME
    assert shows("libdav1d", delimiter + unseen + frame) is FRAME
    assert shows("libdav1d", delimiter + unseen) is NOTHING
    assert shows("libdav1d", delimiter + frame + frame) is DOUBTFUL
    assert shows("libdav1d", delimiter + b"\x32\x09\x10ab") is DOUBTFUL
    assert shows("libdav1d", delimiter + b"\x1a\x01\x80") is FRAME  # an earlier frame, shown now


def test_mpeg_packets_need_a_picture_and_enough_bits():
    assert shows("mpeg2video", b"\0\0\1\0abc") is FRAME
    assert shows("mpeg2video", b"\0\0\1\xb3abc") is DOUBTFUL
    assert shows("mpeg4", bytes(range(40)), macroblocks=150) is FRAME
    assert shows("mpeg4", bytes(range(7)), macroblocks=150) is DOUBTFUL


def test_holes_are_doubtful_and_unknown_codecs_tell_nothing():
    for codec in ("vp8", "vp9", "libdav1d", "mpeg4", "mpeg2video"):
        assert shows(codec, b"\x82\0\0\1\0" + bytes(64) + b"abc") is DOUBTFUL
    assert reader("wmv2", b"", 12) is None
    assert shows("mjpeg", bytes(64)) is FRAME


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("suffix", [".mp4", ".flv", ".ts"])
def test_a_refresh_bit_by_bit_is_no_place_to_start(tmp_path, suffix, refresh):
    settings = f"intra-refresh={refresh:d}:bframes=0:keyint=10:open-gop=1"
    path = make_video(tmp_path / f"a{suffix}", frames=40, gop=10, options={"x264-params": settings})
    with av.open(str(path)) as container:
        lengths = unit_lengths("h264", container.streams.video[0].codec_context.extradata or b"")
        assert lengths == (0 if suffix == ".ts" else 4)
        keys = [bytes(packet) for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
    assert not starts_slowly(keys[0], lengths)
    assert [starts_slowly(key, lengths) for key in keys[1:]] == [refresh] * len(keys[1:])

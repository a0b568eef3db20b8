"""Large files: packets are not held, so their segments are sought, and every frame must be the same."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pytest

from gare.config.prepare import PrepareConfig
from pipelines.decode import DecodeError, decode_in_order, decode_video, packet_plan, planned
from pipelines.decode import video as video_module
from pipelines.decode.packets import Packet
from pipelines.decode.track import Track
from tests.unit.test_decode import CODECS, RECIPE, assert_same, encoded
from tests.videos import make_video


@pytest.fixture
def large(monkeypatch):
    """Every file is too large to keep its packets."""
    monkeypatch.setattr(video_module, "KEEP_BYTES", 0)


@pytest.fixture
def counts(monkeypatch):
    """What was read and decoded, and what each seek came to."""
    seen = {"read": 0, "fed": 0, "sought": [], "misaligned": 0}
    read, decode, sought = Track.read, Track.decode, packet_plan.FromFile._sought

    def reading(self, budget):
        for packet in read(self, budget):
            seen["read"] += 1
            yield packet

    def decoding(self, packet):
        seen["fed"] += packet is not None
        return decode(self, packet)

    def seeking(self, start):
        try:
            coming, at = sought(self, start)
        except packet_plan.Misaligned:
            seen["misaligned"] += 1
            raise
        seen["sought"].append((start, at))
        return coming, at

    monkeypatch.setattr(Track, "read", reading)
    monkeypatch.setattr(Track, "decode", decoding)
    monkeypatch.setattr(packet_plan.FromFile, "_sought", seeking)
    return seen


@pytest.mark.parametrize("name", CODECS)
def test_sought_frames_are_those_of_kept_packets(tmp_path, monkeypatch, counts, name):
    path = encoded(tmp_path, name)
    kept = decode_video(path, recipe=RECIPE)
    monkeypatch.setattr(video_module, "KEEP_BYTES", 0)
    assert_same(decode_video(path, recipe=RECIPE), kept)
    assert_same(decode_in_order(path, recipe=RECIPE), kept)
    if not name.endswith("_avi"):  # which is decoded in order
        assert counts["sought"]
        assert not counts["misaligned"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv"])
def test_only_the_planned_packets_are_read_again_and_decoded(tmp_path, large, counts, suffix):
    path = make_video(tmp_path / f"long{suffix}", frames=400, gop=10, options={"bf": "2"})
    decoded = decode_video(path, recipe=PrepareConfig(max_frames=4, short_side=32, crop=32))
    assert len(decoded.frames) == 4
    assert [start for start, _ in counts["sought"]] == [at for _, at in counts["sought"]]
    again = counts["read"] - 400  # the first pass reads all
    assert counts["fed"] <= 4 * 13  # a GOP is 10, and a frame may lie behind the B-frames shown after it
    assert again <= counts["fed"] + 4  # a first try by pts, where the demuxer goes by dts


def test_segments_close_to_each_other_are_read_on_to(tmp_path, large, counts):
    path = make_video(tmp_path / "a.mp4", frames=60, gop=5, options={"bf": "0"})
    decode_video(path, recipe=PrepareConfig(max_frames=6, policy="uniform", short_side=32, crop=32))
    assert len(counts["sought"]) == 1


SEEKS = {
    "refused": lambda seek, moment: False,  # noqa: ARG005
    "to_the_start": lambda seek, moment: seek(0),  # noqa: ARG005
    "too_far": lambda seek, moment: seek(2 * moment + 5000),
    "behind_the_end": lambda seek, moment: seek(10**12),  # noqa: ARG005
    "without_effect": lambda seek, moment: True,  # noqa: ARG005
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("kind", SEEKS)
def test_a_seek_that_ends_elsewhere_never_changes_a_frame(tmp_path, monkeypatch, kind, suffix):
    path = make_video(tmp_path / f"a{suffix}", frames=200, gop=10, options={"bf": "2"})
    recipe = PrepareConfig(max_frames=5, short_side=32, crop=32)
    kept = decode_video(path, recipe=recipe)
    original = Track.seek
    monkeypatch.setattr(Track, "seek", lambda self, moment: SEEKS[kind](partial(original, self), moment))
    monkeypatch.setattr(video_module, "KEEP_BYTES", 0)
    assert_same(decode_video(path, recipe=recipe), kept)


def test_other_packets_than_noted_are_not_decoded_in_their_place(tmp_path, monkeypatch, large):
    path = make_video(tmp_path / "a.mp4", frames=120, gop=10, options={"bf": "2"})
    wanted = decode_in_order(path, recipe=RECIPE)
    original = Packet.of.__func__

    def of(cls, packet):
        reached = original(cls, packet)
        return reached._replace(pos=reached.pos + 1)

    monkeypatch.setattr(Packet, "of", classmethod(of))
    fed = []
    decode = Track.decode
    monkeypatch.setattr(Track, "decode", lambda self, packet: (fed.append(packet), decode(self, packet))[1])
    assert_same(decode_video(path, recipe=RECIPE), wanted)
    assert sum(packet is not None for packet in fed) == 120  # in order, once


def test_packets_too_many_to_keep_are_let_go_while_reading(tmp_path, monkeypatch):
    path = encoded(tmp_path, "h264_bframes")
    kept = decode_video(path, recipe=RECIPE)
    monkeypatch.setattr(planned, "KEEP_PACKETS", 10)
    assert_same(decode_video(path, recipe=RECIPE), kept)


def outcome(path):
    try:
        return decode_video(path, recipe=RECIPE)
    except DecodeError as error:
        return error.kind


def assert_same_outcome(left, right, name):
    if isinstance(left, str) or isinstance(right, str):
        assert left == right, name
    else:
        assert left.notes == right.notes, name
        assert left.timestamps_s == right.timestamps_s, name
        assert all(np.array_equal(a, b) for a, b in zip(left.frames, right.frames, strict=True)), name


def clips(fixtures_dir, longest):
    with (fixtures_dir / "clips" / "good.csv").open() as lines:
        return [row["file"] for row in csv.DictReader(lines) if float(row["duration"] or 0) < longest]


def compare(fixtures_dir, monkeypatch, files):
    assert files
    for file in files:
        kept = outcome(fixtures_dir / "clips" / file)
        with monkeypatch.context() as patch:
            patch.setattr(video_module, "KEEP_BYTES", 0)
            assert_same_outcome(outcome(fixtures_dir / "clips" / file), kept, file)


def test_real_clips_are_sought_as_they_are_kept(fixtures_dir, monkeypatch):
    compare(fixtures_dir, monkeypatch, clips(fixtures_dir, 5)[3::10])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_real_clips_are_sought_as_they_are_kept(fixtures_dir, monkeypatch):
    compare(fixtures_dir, monkeypatch, clips(fixtures_dir, float("inf")))

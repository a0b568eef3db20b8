"""Many clips of one file: each as by itself, for the cost of one reading."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import Clip, DecodeError, clip_job, decode_clips
from pipelines.decode import video as video_module
from pipelines.decode.track import Track
from tests.videos import make_video

RECIPE = PrepareConfig(short_side=32, crop=32, max_frames=4, candidate_fps=3.0)
FRAMES, RATE = 900, 15
PICTURES_EACH = 3 * 32 * 32 * 4


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A minute of H.264 as MP4 and, without a plan, as AVI."""
    folder = tmp_path_factory.mktemp("films")
    how = {"frames": FRAMES, "fps": RATE, "size": (64, 48), "options": {"bf": "2", "preset": "ultrafast"}}
    return {suffix: make_video(folder / f"film{suffix}", **how) for suffix in (".mp4", ".avi")}


@pytest.fixture
def work(monkeypatch):
    """What was opened, read, decoded and converted."""
    seen = {"opened": 0, "read": 0, "fed": 0, "converted": 0}
    original_open, read, decode, picture = clip_job.open_track, Track.read, Track.decode, clip_job.picture

    def opening(*given):
        seen["opened"] += 1
        return original_open(*given)

    def reading(self, budget):
        for packet in read(self, budget):
            seen["read"] += 1
            yield packet

    def decoding(self, packet):
        seen["fed"] += packet is not None
        return decode(self, packet)

    def converting(*given):
        seen["converted"] += 1
        return picture(*given)

    monkeypatch.setattr(clip_job, "open_track", opening)
    monkeypatch.setattr(Track, "read", reading)
    monkeypatch.setattr(Track, "decode", decoding)
    monkeypatch.setattr(clip_job, "picture", converting)
    return seen


def assert_each_as_alone(path, clips, results, recipe=RECIPE):
    results = list(results)
    assert len(results) == len(clips)
    for clip, result in zip(clips, results, strict=True):
        (alone,) = decode_clips(path, recipe=recipe, clips=[clip])
        if isinstance(alone, DecodeError):
            assert (result.kind, result.message) == (alone.kind, alone.message)
            continue
        assert (result.timestamps_s, result.notes, result.duration_s) == (
            alone.timestamps_s,
            alone.notes,
            alone.duration_s,
        )
        assert all(np.array_equal(a, b) for a, b in zip(result.frames, alone.frames, strict=True))


def neighbours(length_s: float = 3.0) -> list[Clip]:
    return [Clip(start, start + length_s) for start in np.arange(0, FRAMES / RATE, length_s).tolist()]


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "sought"])
def test_clips_that_follow_each_other_cost_one_pass(films, monkeypatch, work, kept):
    if not kept:
        monkeypatch.setattr(video_module, "KEEP_BYTES", 0)
    path, clips = films[".mp4"], neighbours()
    results = list(decode_clips(path, recipe=RECIPE, clips=clips))
    assert work["opened"] == 1
    assert work["fed"] <= FRAMES
    assert work["read"] <= FRAMES * (1 if kept else 2) + 50
    assert_each_as_alone(path, clips, results)


def test_overlapping_clips_in_any_order_share_what_they_have_in_common(films, work):
    path = films[".mp4"]
    clips = [Clip(start, start + 6.0) for start in range(0, 54, 2)]
    recipe = PrepareConfig(short_side=32, crop=32, max_frames=6, candidate_fps=1.0)
    random.Random(0).shuffle(clips)
    results = list(decode_clips(path, recipe=recipe, clips=clips))
    assert work["opened"] == 1
    assert work["fed"] <= FRAMES
    assert work["converted"] <= 60  # seconds, where 27 clips keep 6 frames each
    assert_each_as_alone(path, clips, results, recipe)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_few_clips_are_decoded_ahead_of_what_is_taken(films, monkeypatch, work, order):
    monkeypatch.setattr(video_module, "TOGETHER_BYTES", 3 * PICTURES_EACH)
    path, clips = films[".mp4"], neighbours()
    if order == "shuffled":
        random.Random(0).shuffle(clips)
    coming = decode_clips(path, recipe=RECIPE, clips=clips)
    first = next(coming)
    assert work["converted"] <= 3 * 4
    results = [first, *coming]
    assert work["opened"] == 1
    assert work["fed"] <= FRAMES * (1.5 if order == "sorted" else 2.5)
    assert_each_as_alone(path, clips, results)


@pytest.mark.parametrize("order", ["sorted", "shuffled", "overlapping"])
def test_without_a_plan_clips_share_the_passes(films, monkeypatch, work, order):
    monkeypatch.setattr(video_module, "TOGETHER_BYTES", 5 * PICTURES_EACH)
    path, clips = films[".avi"], neighbours()
    if order == "shuffled":
        random.Random(0).shuffle(clips)
    if order == "overlapping":
        clips = [Clip(start, start + 6.0) for start in range(0, 54, 3)]
    results = list(decode_clips(path, recipe=RECIPE, clips=clips))
    passes = 5 if order == "shuffled" else 2.1
    assert work["fed"] <= passes * FRAMES
    assert_each_as_alone(path, clips, results)


def test_what_is_wrong_with_one_clip_is_not_wrong_with_others(tmp_path, films):
    data = bytearray(films[".mp4"].read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    clips = [*neighbours(), Clip(50.0, 40.0), Clip(900.0), Clip()]
    results = list(decode_clips(path, recipe=RECIPE, clips=clips))
    assert [result.kind for result in results if isinstance(result, DecodeError)] == ["empty_clip", "empty_clip"]
    assert any("partial" in result.notes for result in results[:-3])
    assert_each_as_alone(path, clips, results)


def test_an_error_of_the_whole_file_is_given_for_each_clip(films):
    path = films[".mp4"]
    clips = neighbours()
    for limits, kind in (({"max_packets": 10}, "too_many_packets"), ({"cpu_seconds": 1e-9}, "timeout")):
        recipe = PrepareConfig(limits=LimitsConfig(**limits))
        results = list(decode_clips(path, recipe=recipe, clips=clips))
        assert [result.kind for result in results] == [kind] * len(clips)
        assert len({id(result) for result in results}) == len(clips)


def test_no_clips_are_no_results(films):
    assert list(decode_clips(films[".mp4"], recipe=RECIPE, clips=[])) == []


def test_clips_behind_one_that_ran_out_of_time_are_decoded_all_the_same(films, monkeypatch):
    monkeypatch.setattr(video_module, "TOGETHER_BYTES", 0)
    turns, original = [], Track.decode

    def decode(self, packet):
        turns.append(1)
        if len(turns) == FRAMES + 100:  # in the second reading
            raise DecodeError("timeout", "spent")
        return original(self, packet)

    late = [Clip(3.0, 6.0), Clip(30.0, 33.0), Clip(36.0, 39.0)]
    wanted = list(decode_clips(films[".avi"], recipe=RECIPE, clips=late))
    monkeypatch.setattr(Track, "decode", decode)
    results = list(decode_clips(films[".avi"], recipe=RECIPE, clips=late))
    assert [result.kind for result in results if isinstance(result, DecodeError)] == ["timeout"]
    for result, right in zip(results, wanted, strict=True):
        if not isinstance(result, DecodeError):
            assert all(np.array_equal(a, b) for a, b in zip(result.frames, right.frames, strict=True))

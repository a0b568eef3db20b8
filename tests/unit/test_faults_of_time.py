"""Which frames there are and when: leading and unseen packets, containers of milliseconds, damage, cut-off ends."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from gare.config.prepare import PrepareConfig
from pipelines.decode import Clip, decode_clips, decode_video
from pipelines.decode.times import shown, tick_s
from pipelines.decode.track import ends_early
from tests.videos import make_video, picture

SIDE = {"short_side": 32, "crop": 32}
EVERY = PrepareConfig(policy="uniform", max_frames=500, **SIDE)


def starts(decoded) -> list[float]:
    return [round(time, 3) for time in decoded.timestamps_s]


def numbers(decoded, rate) -> list[int]:
    return [round(time * rate) for time in decoded.timestamps_s]


# The known faults


def test_leading_packets_not_decodable_do_not_start_the_clock(fixtures_dir):
    folder = fixtures_dir / "faults" / "02-leading-packets-not-decodable"
    for name, frames in (("capture264.ts", 75), ("cut264.mkv", 100)):
        whole = decode_video(folder / name, recipe=EVERY)
        assert len(whole.frames) == frames
        assert whole.duration_s == pytest.approx(frames / 25, abs=1e-3)
        with av.open(str(folder / name)) as container:
            came = [frame.pts for frame in container.decode(video=0)]
            times = [float((pts - came[0]) * container.streams.video[0].time_base) for pts in came]
        assert whole.timestamps_s == pytest.approx(times)
        for policy in ("fps_linspace", "uniform", "segment_middle", "all_candidates"):
            recipe = PrepareConfig(policy=policy, **SIDE)
            clip = decode_video(folder / name, recipe=recipe, start_s=1.0, end_s=3.0)
            for time, frame in zip(clip.timestamps_s, clip.frames, strict=True):
                np.testing.assert_array_equal(frame, whole.frames[round(time * 25)])
            if policy == "fps_linspace":
                assert starts(clip) == [1.0, 2.0]


def test_vp8_invisible_packets_are_no_frames(fixtures_dir):
    path = fixtures_dir / "faults" / "03-vp8-invisible-packets" / "vp8arf2.webm"
    middles = decode_video(path, recipe=PrepareConfig(policy="segment_middle", **SIDE))
    assert starts(middles)[:3] == [0.24, 0.72, 1.24]
    assert len(decode_video(path, recipe=EVERY).frames) == 150


def test_containers_of_milliseconds_give_the_frames_of_others(fixtures_dir):
    folder = fixtures_dir / "faults" / "06-containers-of-milliseconds"
    for name in ("r30.mp4", "r30.mkv"):
        clip = decode_video(folder / name, recipe=EVERY, start_s=0.3333333, end_s=1.3333333)
        assert numbers(clip, 30) == list(range(10, 40))


def test_damage_loses_no_more_times_than_it_hits(fixtures_dir):
    folder = fixtures_dir / "faults" / "09-damage-loses-all-times"
    recipe = PrepareConfig(policy="all_candidates", candidate_fps=2.0, **SIDE)
    decoded = decode_video(folder / "hole.ts", recipe=recipe)
    assert "repaired_timestamps" in decoded.notes
    assert "ordinal_timestamps" not in decoded.notes
    assert decoded.timestamps_s[-1] > 3.4
    whole = decode_video(folder / "whole.ts", recipe=EVERY)
    own = dict(zip(numbers(whole, 30), whole.frames, strict=True))
    before = [(n, f) for n, f in zip(numbers(decoded, 30), decoded.frames, strict=True) if n < 40]
    assert len(before) == 3
    for number, frame in before:
        np.testing.assert_array_equal(frame, own[number])


def test_truncated_is_noted_and_whole_is_not(fixtures_dir):
    folder = fixtures_dir / "faults" / "10-truncated-without-note"
    notes = {name: decode_video(folder / name, recipe=EVERY).notes for name in ("half.mkv", "hole.mkv", "whole.mkv")}
    assert notes == {"half.mkv": ["partial"], "hole.mkv": ["partial"], "whole.mkv": []}


# The same video in every container


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(24), Fraction(30000, 1001)], ids=str)
def test_every_container_gives_the_same_frames_for_clips_candidates_and_moments(tmp_path, rate):
    frame = 1 / float(rate)
    clips = [Clip(number * frame, (number + 30) * frame) for number in range(1, 12)]
    clips += [Clip(round(c.start_s, 7), round(c.end_s, 7)) for c in clips[:3]]
    recipes = [
        PrepareConfig(policy="all_candidates", candidate_fps=float(rate) / 10, **SIDE),
        PrepareConfig(policy="timestamps", timestamps_s=[0.0, 10 * frame, 20 * frame, 25 * frame], **SIDE),
        PrepareConfig(policy="uniform", max_frames=4, **SIDE),
    ]
    found = {}
    for suffix in (".mp4", ".mkv", ".ts", ".flv"):
        path = make_video(tmp_path / f"a{suffix}", fps=rate, size=(32, 32), options={"bf": "2", "preset": "ultrafast"})
        found[suffix] = [
            [numbers(result, rate) for result in decode_clips(path, recipe=recipe, clips=clips)] for recipe in recipes
        ]
    assert found[".mp4"][0][0] == [1, 11, 21]
    assert found[".mp4"][1][0] == [1, 11, 21, 26]
    assert all(found[suffix] == found[".mp4"] for suffix in found)


def test_times_in_whole_frames_are_exact_however_coarse_their_base(tmp_path):
    paths = [make_video(tmp_path / f"a{suffix}", codec="mpeg4", fps=25) for suffix in (".avi", ".mp4")]
    clips = [numbers(decode_video(path, recipe=EVERY, start_s=0.335, end_s=0.5), 25) for path in paths]
    assert clips == [[9, 10, 11, 12]] * 2


def test_the_tick_is_what_times_are_rounded_to():
    ms = Fraction(1, 1000)
    assert tick_s([0, 33, 67, 100], ms) == 0.001
    assert tick_s([0, 40, 80, 160], ms) == 0.0
    assert tick_s([0, 1, 2, 4], Fraction(1, 25)) == 0.0
    assert tick_s([0, 33], ms) == 0.001  # too few to tell
    assert tick_s([5], ms) == 0.0


# Times of damaged files


def test_a_frame_whose_time_goes_back_is_left_out_and_one_without_time_lies_between():
    unit = Fraction(1, 10)
    pts = [0, 1, 2, 9, 3, 4, None, 6, 7, 7, 8]
    found = shown(pts, unit, 10.0)
    assert list(found.numbers) == [0, 1, 2, 4, 5, 6, 7, 8, 10]
    assert found.times_s == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert found.notes == ["repaired_timestamps"]
    assert all(a < b for a, b in pairwise(found.times_s))


def test_missing_times_at_both_ends_go_on_at_the_mean_rate():
    found = shown([None, 10, 12, *range(14, 40, 2), None], Fraction(1, 10), None)
    assert found.times_s[:3] == pytest.approx([0, 0.2, 0.4])
    assert found.times_s[-1] - found.times_s[-2] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "pts",
    [
        [*range(100), *range(100)],  # the clock starts anew
        [*range(300), *range(65)],
        [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9],  # times in the order of storage
        [None] * 9 + [5],
        [0, 0, 0, 1, 1, 1],
    ],
)
def test_frames_are_counted_where_times_tell_nothing(pts):
    found = shown(pts, Fraction(1, 10), 5.0)
    assert found.notes == ["ordinal_timestamps"]
    assert found.times_s == pytest.approx([i / 5 for i in range(len(pts))])


def test_made_up_times_are_not_repaired():
    pts = [*range(50), 48, *range(51, 60)]
    assert shown(pts, Fraction(1, 10), 10.0).notes == ["repaired_timestamps"]
    assert shown(pts, Fraction(1, 10), 10.0, made_up=True).notes == ["ordinal_timestamps"]


# Ends cut off


CUT = {
    "a.mkv": {},
    "a.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "a.flv": {},
    "a.avi": {"codec": "mpeg4"},
    "faststart.mp4": {"muxer": {"movflags": "faststart"}},
    "fragments.mp4": {"muxer": {"movflags": "dash+global_sidx+frag_keyframe"}},
}


@pytest.mark.parametrize("name", CUT)
def test_an_end_that_was_cut_off_is_noted_in_every_container(tmp_path, name):
    path = make_video(tmp_path / name, frames=90, size=(64, 48), **CUT[name])
    whole = decode_video(path, recipe=EVERY)
    assert (whole.notes, len(whole.frames)) == ([], 90)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    cut = decode_video(path, recipe=EVERY)
    assert "partial" in cut.notes
    assert 20 < len(cut.frames) < 90
    np.testing.assert_array_equal(cut.frames[10], whole.frames[10])


@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".mp4"])
def test_sound_that_is_longer_than_the_pictures_is_no_cut(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("libx264", rate=10), out.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(picture(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        for number in range(6):
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 16000, 16000 * number, Fraction(1, 16000)
            out.mux(sound.encode(heard))
        out.mux(sound.encode())
    assert decode_video(path, recipe=EVERY).notes == []
    with av.open(str(path)) as container:
        assert container.duration > 5e6
        track = container.streams.video[0]
        if suffix == ".flv":  # which states one length; with the sound gone too, it is not reached
            assert not ends_early(container, track, 20, 2000, 100.0)


def test_frames_behind_a_hole_are_found_again(tmp_path):
    path = make_video(tmp_path / "a.mkv", frames=600, size=(64, 48), options={"bf": "2"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 600] = bytes(600)
    path.write_bytes(data)
    decoded = decode_video(path, recipe=EVERY)
    assert decoded.timestamps_s[-1] > 38
    assert len(decoded.frames) > 400

"""Which frames are kept: pure functions, over many clips and settings."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.common.spread import segment_middles, segments, thin
from pipelines.decode.sampling import POLICIES, candidates_at, in_clip, is_truncated, sample


def seconds(count: int, fps: float) -> list[float]:
    return [i / fps for i in range(count)]


def pick(times, **changes):
    return sample(times, **{"policy": "fps_linspace", "max_frames": 12, "candidate_fps": 1.0, **changes})


# fps_linspace


def test_one_candidate_per_second_at_a_constant_rate():
    assert pick(seconds(90, 30.0)) == [0, 30, 60]


@pytest.mark.parametrize("fps", [23.976, 29.97, 7.3, 59.94])
def test_a_candidate_is_the_first_frame_at_or_after_its_second(fps):
    times = seconds(400, fps)
    wanted = [next(i for i, t in enumerate(times) if t >= s - 1e-6) for s in range(int(times[-1]) + 1)]
    assert candidates_at(np.array(times), 1.0).tolist() == wanted


def test_many_candidates_are_thinned_by_truncated_linspace_with_both_ends():
    picked = pick(seconds(30 * 60, 30.0))
    assert picked == [30 * int(i) for i in np.linspace(0, 59, 12)]
    assert picked[0] == 0
    assert picked[-1] == 59 * 30


def test_a_short_video_keeps_its_few_frames():
    assert pick(seconds(5, 25.0)) == [0]
    assert pick([0.0]) == [0]
    for policy in ("uniform", "segment_middle"):
        assert pick(seconds(5, 25.0), policy=policy) == [0, 1, 2, 3, 4]


def test_a_gap_in_a_variable_rate_video_does_not_repeat_frames():
    times = [0.0, 0.5, 1.0, 901.0, 901.5, 902.0]
    assert pick(times) == [0, 2, 3, 5]


# The other policies


def test_uniform_spreads_over_all_frames_and_ignores_time():
    assert pick([0.0, 0.1, 0.2, 50.0, 60.0], policy="uniform", max_frames=3) == [0, 2, 4]


def test_segment_middle_takes_the_middle_of_each_equal_segment_of_all_frames():
    assert pick(seconds(12, 25.0), policy="segment_middle", max_frames=4) == [1, 4, 7, 10]
    assert pick(seconds(9, 25.0), policy="segment_middle", max_frames=1) == [4]


def test_all_candidates_are_cut_at_the_limit_and_it_is_said():
    settings = {"policy": "all_candidates", "candidate_fps": 1.0}
    times = seconds(100, 10.0)
    assert pick(times, **settings, max_frames=10) == list(range(0, 100, 10))
    assert pick(times, **settings, max_frames=4) == [0, 10, 20, 30]
    assert not is_truncated(times, **settings, max_frames=10)
    assert is_truncated(times, **settings, max_frames=9)
    assert not is_truncated(times, **settings, max_frames=3, start_s=1.0, end_s=4.0)
    assert not is_truncated(times, policy="uniform", candidate_fps=1.0, max_frames=3)


def test_timestamps_take_the_frame_shown_at_each_moment():
    times = [0.0, 0.5, 1.0, 4.0, 4.5]
    moments = [3.9, 0.0, 0.49, 0.5, 4.5, 4.9]
    assert pick(times, policy="timestamps", timestamps_s=moments) == [0, 1, 2, 4]


def test_moments_behind_the_last_frame_are_skipped_and_count_from_the_clip():
    times = seconds(40, 10.0)
    assert pick(times, policy="timestamps", timestamps_s=[3.99, 4.0, 99.0]) == [39]
    assert pick(times, policy="timestamps", timestamps_s=[0.0, 0.25, 1.0], start_s=2.0, end_s=3.0) == [20, 22]
    assert pick(times, policy="timestamps", timestamps_s=[50.0]) == []
    assert pick([0.0], policy="timestamps", timestamps_s=[0.0, 0.1]) == [0]


# Clips


def test_clip_bounds_include_the_start_and_exclude_the_end():
    times = seconds(100, 10.0)
    picked = pick(times, start_s=2.0, end_s=5.0)
    assert [times[i] for i in picked] == [2.0, 3.0, 4.0]


def test_candidates_count_from_the_first_frame_of_the_clip():
    times = seconds(100, 10.0)
    assert [times[i] for i in pick(times, start_s=2.25)][:2] == [2.3, 3.3]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_clip_beyond_the_end_is_empty(policy):
    assert pick(seconds(10, 10.0), start_s=7.0, policy=policy, timestamps_s=[0.0]) == []
    assert pick(seconds(10, 10.0), start_s=0.5, end_s=0.2, policy=policy, timestamps_s=[0.0]) == []


# What holds of every policy, for any rate, gap, clip and number of frames

gaps = st.one_of(
    st.floats(1e-3, 2.0),
    st.sampled_from([1 / 30, 1 / 25, 1001 / 30000, 1.0, 900.0]),
)
shown = st.lists(gaps, min_size=0, max_size=120).map(lambda steps: [0.0, *accumulate(steps)])
bounds = st.one_of(st.none(), st.floats(0, 50))


@given(
    times=shown,
    policy=st.sampled_from(sorted(POLICIES)),
    max_frames=st.integers(1, 40),
    candidate_fps=st.sampled_from([0.2, 1.0, 3.0, 29.97]),
    start=bounds,
    end=bounds,
    moments=st.lists(st.floats(0, 100), min_size=1, max_size=12),
)
def test_what_is_kept_rises_without_repeats_within_the_clip_and_the_limit(
    times, policy, max_frames, candidate_fps, start, end, moments
):
    settings = {"policy": policy, "max_frames": max_frames, "candidate_fps": candidate_fps}
    picked = sample(times, **settings, timestamps_s=moments, start_s=start, end_s=end)
    clip = [i for i, t in enumerate(times) if (start is None or t >= start - 1e-6) and (end is None or t < end - 1e-6)]
    assert picked == sorted(set(picked))
    assert len(picked) <= max_frames
    assert set(picked) <= set(clip)
    if policy != "timestamps":
        assert bool(picked) == bool(clip)
    if clip and policy in ("fps_linspace", "uniform", "all_candidates"):
        assert picked[0] == clip[0]
    if clip and policy == "uniform" and max_frames > 1:
        assert picked[-1] == clip[-1]
    if policy in ("uniform", "segment_middle"):
        assert len(picked) == min(max_frames, len(clip))


@given(times=shown, fps=st.sampled_from([0.5, 1.0, 7.0]), max_frames=st.integers(2, 30))
def test_thinning_all_candidates_gives_fps_linspace(times, fps, max_frames):
    every = sample(times, policy="all_candidates", max_frames=10**6, candidate_fps=fps)
    picked = sample(times, policy="fps_linspace", max_frames=max_frames, candidate_fps=fps)
    assert picked == [every[i] for i in thin(len(every), max_frames)]
    assert picked[-1] == every[-1]


# Whole numbers


@pytest.mark.parametrize("frames", [2, 3, 8, 12, 16, 32])
def test_thinning_is_numpys_linspace(frames):
    for count in range(frames + 1, 2000):
        assert thin(count, frames) == np.linspace(0, count - 1, frames).astype(int).tolist()


def test_thinning_does_not_fall_below_a_whole_number_as_floating_point_does():
    by_float = np.linspace(0, 122, 15).astype(int).tolist()
    assert by_float != thin(123, 15) == [k * 122 // 14 for k in range(15)]


def test_thinning_twice_is_thinning_once_where_it_nests():
    for stored in range(1, 66):
        for used in (n for n in range(1, stored + 1) if n == 1 or (stored - 1) % (n - 1) == 0):
            for count in [*range(1, 140), 997, 3600, 86_401, 2_000_003]:
                kept = thin(count, stored)
                assert [kept[i] for i in thin(len(kept), used)] == thin(count, used), (stored, used, count)


def test_thinning_twice_is_another_choice_where_it_does_not_nest():
    kept = thin(100, 12)
    assert [kept[i] for i in thin(12, 8)] != thin(100, 8)


def test_thinning_to_one_keeps_the_first():
    assert thin(9, 1) == [0]


@given(count=st.integers(1, 500), parts=st.integers(1, 60))
def test_segments_cover_everything_once_in_equal_lengths(count, parts):
    cut = segments(count, parts)
    assert [i for segment in cut for i in segment] == list(range(count))
    assert len(cut) == min(parts, count)
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert all(middle in segment for middle, segment in zip(segment_middles(count, parts), cut, strict=True))


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("rate", [24, 25, 30, 30000 / 1001])
def test_clips_of_a_clock_of_milliseconds_are_those_of_exact_times_wherever_it_starts(rate, first):
    exact = np.arange(40) / rate
    stored = np.round(1000 * (first + np.arange(40)) / rate)  # as Matroska and FLV store them
    rounded = (stored - stored[0]) / 1000
    for frame in range(38):
        bounds = (float(exact[frame]), float(exact[frame + 2]))
        assert in_clip(rounded, *bounds, 0.001) == in_clip(exact, *bounds) == range(frame, frame + 2)

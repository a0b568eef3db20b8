from __future__ import annotations

import numpy as np
import pytest

from pipelines.sampling import POLICIES, candidates_at, sample, thin


def seconds(count: int, fps: float) -> list[float]:
    return [i / fps for i in range(count)]


def pick(times, **changes):
    return sample(times, **{"policy": "fps_linspace", "max_frames": 12, "candidate_fps": 1.0, **changes})


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
    assert pick(seconds(5, 25.0), policy="uniform") == [0, 1, 2, 3, 4]


def test_a_gap_in_a_variable_rate_video_does_not_repeat_frames():
    times = [0.0, 0.5, 1.0, 901.0, 901.5, 902.0]
    assert pick(times) == [0, 2, 3, 5]


def test_uniform_spreads_over_all_frames_and_ignores_time():
    assert pick([0.0, 0.1, 0.2, 50.0, 60.0], policy="uniform", max_frames=3) == [0, 2, 4]


def test_clip_bounds_include_the_start_and_exclude_the_end():
    times = seconds(100, 10.0)
    picked = pick(times, start_s=2.0, end_s=5.0)
    assert [times[i] for i in picked] == [2.0, 3.0, 4.0]


def test_candidates_count_from_the_first_frame_of_the_clip():
    times = seconds(100, 10.0)
    assert [times[i] for i in pick(times, start_s=2.25)][:2] == [2.3, 3.3]


def test_a_clip_beyond_the_end_is_empty():
    assert pick(seconds(10, 10.0), start_s=7.0) == []


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 500])
def test_indices_rise_and_never_exceed_the_limit(policy, count):
    picked = pick(seconds(count, 3.0), policy=policy)
    assert len(picked) <= 12
    assert picked == sorted(set(picked))
    assert picked[0] == 0
    assert picked[-1] < count


def test_thinning_to_one_keeps_the_first():
    assert thin(9, 1).tolist() == [0]

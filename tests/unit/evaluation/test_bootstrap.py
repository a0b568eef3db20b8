"""Intervals: exact per resample, nominal on simulated data, by whole videos, paired."""

from __future__ import annotations

import numpy as np
import pytest

from gare.common.errors import InputError, RunError
from gare.evaluation.metrics import bootstrap
from gare.evaluation.metrics.bootstrap import compare, intervals, resampled
from gare.evaluation.metrics.ranking import Ranking


def ranking(ranks, video=None, gallery=1000):
    ranks = np.asarray(ranks)
    return Ranking("t2v", ranks, np.arange(len(ranks)) if video is None else np.asarray(video), gallery)


def some_ranks(random, share, queries=1000):
    """Ranks of which about ``share`` are 1."""
    return np.where(random.random(queries) < share, 1, random.integers(2, 200, queries))


def repeated(one, counts):
    """The ranking in which each video, by its number, occurs ``counts`` times."""
    number = np.unique(one.video, return_inverse=True)[1]
    times = counts[number].astype(int)
    return Ranking(one.name, np.repeat(one.ranks, times), np.repeat(one.video, times), one.gallery)


@pytest.mark.parametrize("cells", [7, 2_000_000])
@pytest.mark.parametrize("seed", range(12))
def test_every_resample_is_measured_as_the_repeated_queries_would_be(seed, cells, monkeypatch):
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", cells)
    random = np.random.default_rng(seed)
    queries, videos = random.integers(1, 40), random.integers(1, 12)
    ranks = random.integers(1, 60, queries) / (2 if seed % 3 == 0 else 1)
    one = ranking(ranks, 5 * random.integers(0, videos, queries))
    found = resampled([one], 30, seed)[0]
    draws = np.concatenate(list(bootstrap._draws(len(np.unique(one.video)), 30, seed)))
    for at, counts in enumerate(draws):
        wanted = repeated(one, counts).metrics()
        assert {name: values[at] for name, values in found.items()} == pytest.approx(wanted)


def test_a_median_far_from_the_first_guess_is_found(monkeypatch):
    one = ranking(np.arange(1, 202))
    right = intervals(one, resamples=300)
    monkeypatch.setattr(bootstrap._Table, "_first_window", lambda _: (0, 1))
    assert intervals(one, resamples=300) == right


def test_the_interval_of_recall_is_the_normal_one():
    one = ranking(np.where(np.arange(1000) < 490, 1, 7))
    low, high = intervals(one)["t2v/R@1"]
    half = 1.96 * np.sqrt(0.49 * 0.51 / 1000) * 100  # 3.1 points
    assert low == pytest.approx(49 - half, abs=0.15)
    assert high == pytest.approx(49 + half, abs=0.15)


@pytest.mark.parametrize("captions", [1, 10])
def test_intervals_hold_the_truth_about_as_often_as_they_say(captions):
    random, held = np.random.default_rng(0), 0
    videos, trials = 120, 200
    for trial in range(trials):
        chances = random.beta(0.4, 0.4, videos)  # captions of one video are found or missed together
        hits = random.random((videos, captions)) < chances[:, None]
        one = ranking(np.where(hits, 1, 2).ravel(), np.repeat(np.arange(videos), captions))
        low, high = intervals(one, resamples=400, seed=trial)["t2v/R@1"]
        held += low <= 50 <= high
    assert 0.90 <= held / trials <= 0.985


def test_whole_videos_are_drawn_so_copies_of_a_caption_add_no_certainty():
    once = ranking([1, 3, 1, 8, 20, 1, 1, 4])
    tenfold = Ranking("t2v", np.repeat(once.ranks, 10), np.repeat(once.video, 10), 1000)
    found, wanted = (intervals(one, resamples=500) for one in (tenfold, once))
    assert {name: pytest.approx(interval) for name, interval in wanted.items()} == found


def test_equal_seeds_give_equal_intervals_and_others_nearly_so():
    one = ranking(some_ranks(np.random.default_rng(0), 0.5))
    assert intervals(one, seed=3) == intervals(one, seed=3)
    assert intervals(one, seed=3) != intervals(one, seed=4)
    assert intervals(one, seed=3)["t2v/R@1"] == pytest.approx(intervals(one, seed=4)["t2v/R@1"], abs=0.3)


def test_a_higher_level_is_wider():
    one = ranking(some_ranks(np.random.default_rng(0), 0.5))
    narrow, wide = (intervals(one, level=level)["t2v/R@1"] for level in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_identical_runs_do_not_differ():
    one = ranking(some_ranks(np.random.default_rng(0), 0.5))
    for found in compare(one, one, resamples=200):
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_pairing_narrows_the_interval_of_runs_that_agree_mostly():
    random = np.random.default_rng(0)
    ranks = some_ranks(random, 0.5)
    other = np.where(random.random(1000) < 0.05, some_ranks(random, 0.5), ranks)
    a, b = ranking(ranks), ranking(other)
    paired = next(found for found in compare(a, b) if found.metric == "t2v/R@1")
    halves = [np.diff(intervals(one, seed=seed)["t2v/R@1"])[0] / 2 for seed, one in enumerate((a, b))]
    assert (paired.high - paired.low) / 2 < np.hypot(*halves) / 2


def test_a_clear_difference_is_found_and_points_to_b():
    random = np.random.default_rng(0)
    a = some_ranks(random, 0.4)
    b = np.where(random.random(1000) < 0.15, 1, a)
    found = {difference.metric: difference for difference in compare(ranking(a), ranking(b))}
    recall, mean = found["t2v/R@1"], found["t2v/MnR"]
    assert recall.low > 0
    assert recall.difference == pytest.approx(100 * ((b == 1).mean() - (a == 1).mean()))
    assert recall.low < recall.difference < recall.high
    assert recall.p == pytest.approx(2 / 10_001)
    assert mean.high < 0


def test_p_is_rarely_small_without_a_difference():
    random, small = np.random.default_rng(1), 0
    for trial in range(200):
        a, b = (ranking(some_ranks(random, 0.5, 200)) for _ in range(2))
        found = compare(a, b, resamples=300, seed=trial)
        small += next(difference.p for difference in found if difference.metric == "t2v/R@1") < 0.05
    assert small / 200 < 0.1


@pytest.mark.parametrize(
    "other",
    [
        Ranking("v2t", np.ones(3, int), np.arange(3), 9),
        Ranking("t2v", np.ones(3, int), np.arange(3), 8),
        Ranking("t2v", np.ones(3, int), np.array([0, 1, 1]), 9),
        Ranking("t2v", np.ones(2, int), np.arange(2), 9),
    ],
)
def test_other_queries_are_not_compared(other):
    with pytest.raises(InputError, match="not of the same queries and gallery"):
        compare(Ranking("t2v", np.ones(3, int), np.arange(3), 9), other)


def test_what_cannot_be_resampled_is_an_error():
    one = ranking([1, 2])
    with pytest.raises(InputError, match="between 0 and 1"):
        intervals(one, level=95)
    with pytest.raises(InputError, match="too few"):
        intervals(one, resamples=0)
    with pytest.raises(RunError, match="no queries"):
        intervals(ranking(np.zeros(0, int)))

"""What seeds can tell, against scipy and by hand; and which keys matter, where it is known."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.unit.tune.made_sweep import FORM, IB, TR, sweep_config, trial
from tune.comparison.importance import importance
from tune.comparison.settings import group
from tune.comparison.statistics import difference, estimate, exceeds, holm, pooled, quantile
from tune.record import SweepRecord

SCORES = st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=2, max_size=6)


@given(SCORES)
def test_mean_and_interval_are_those_of_scipy(values):
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.n == len(values)
    if np.ptp(values) == 0:
        assert found.interval is None
        return
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found.interval == pytest.approx(expected, abs=1e-6)


def test_one_value_has_no_spread_and_no_interval():
    assert estimate([3.0]).deviation is None
    assert estimate([3.0]).interval is None


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=6))
def test_shared_seeds_are_compared_pair_by_pair_as_scipy_does(pairs):
    left = {seed: a / 4 for seed, (a, _) in enumerate(pairs)}
    right = {seed: b / 4 for seed, (_, b) in enumerate(pairs)}
    found = difference(left | {90: 1.0}, right | {91: 99.0})
    assert found.paired
    assert found.n == len(pairs)
    if len({left[seed] - right[seed] for seed in left}) == 1:
        assert found.p is None
        return
    expected = stats.ttest_rel(list(left.values()), list(right.values()))
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.interval == pytest.approx((low, high), abs=1e-6)


def test_seeds_of_their_own_are_compared_by_welch():
    left, right = [10.0, 12.0, 11.0, 14.0], [15.0, 19.0]
    found = difference(dict(enumerate(left)), {10: 15.0, 11: 19.0})
    expected = stats.ttest_ind(left, right, equal_var=False)
    assert not found.paired
    assert found.n == 2
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_too_few_seeds_are_not_compared_and_equal_steps_give_no_certainty():
    assert difference({0: 1.0}, {0: 5.0}) is None
    assert difference({0: 1.0}, {0: 5.0, 1: 6.0}) is None
    # One step in each of two seeds: of a metric with few queries this is chance, not proof.
    found = difference({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0})
    assert (found.mean, found.p, found.interval) == (-1.0, None, None)
    # Rounding makes no spread.
    assert difference({0: 0.3, 1: 0.7}, {0: 0.2, 1: 0.6}).p is None


@pytest.mark.parametrize("freedom", [1, 1.05, 2, 2.7, 5, 17, 100, 4491, 1e6])
def test_the_range_of_two_is_students_t(freedom):
    for statistic in (0, 0.01, 0.5, 1, 2, 3, 5, 8, 60, 1e4):
        expected = 2 * stats.t.sf(statistic / math.sqrt(2), freedom)
        assert exceeds(statistic, 2, freedom) == pytest.approx(expected, abs=1e-12)
    assert quantile(0.95, 2, freedom) == pytest.approx(math.sqrt(2) * stats.t.ppf(0.975, freedom), rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 1.7, 9, 998])
@pytest.mark.parametrize("groups", [3, 20, 500, 5000])
def test_the_range_of_many_is_that_of_scipy(groups, freedom):
    limit = quantile(0.95, groups, freedom)
    for statistic in (0.8 * limit, limit, 1.5 * limit):
        expected = stats.studentized_range.sf(statistic, groups, freedom)
        assert exceeds(statistic, groups, freedom) == pytest.approx(expected, abs=1e-10)
    assert exceeds(limit, groups, freedom) == pytest.approx(0.05, abs=1e-12)
    assert exceeds(math.inf, groups, freedom) == pytest.approx(0, abs=1e-12)


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, each at least the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_seed_noise_is_pooled_over_settings():
    # Sums of squares 2 and 8 over 1 and 2 degrees of freedom; a single seed says nothing.
    noise = pooled([[1.0, 3.0], [0.0, 2.0, 4.0], [7.0]])
    assert noise.deviation == pytest.approx(math.sqrt(10 / 3))
    assert noise.freedom == 3
    assert pooled([[1.0], []]) is None


def settings_of(trials):
    config = sweep_config()
    return group(SweepRecord("weights", "k", config.model_dump(mode="json"), trials), config)


def drawn(count, score):
    rng = random.Random(0)
    trials = []
    for number in range(count):
        values = {
            IB: 10 ** rng.uniform(-6, -2),
            TR: 10 ** rng.uniform(-3, -1),
            FORM: rng.choice(["hard", "smooth"]),
            "model.clip": rng.choice([None, True, "a", 3]),
        }
        trials.append(trial(number, score(values), **values))
    return settings_of(trials)


def test_keys_that_make_the_metric_are_found_with_their_shares():
    settings = drawn(60, lambda values: 10 * (values[FORM] == "hard") + 3 * (math.log10(values[IB]) > -4))
    found = importance(settings, [IB, TR, FORM, "model.clip"])
    assert [row.key for row in found.keys[:2]] == [FORM, IB]
    # Variances of 10 and 3 times a coin: 25 and 2.25.
    assert found.keys[0].share == pytest.approx(25 / 27.25, abs=0.12)
    assert found.keys[1].share == pytest.approx(2.25 / 27.25, abs=0.06)
    assert all(row.share < 0.02 for row in found.keys[2:])
    assert found.explained > 0.9
    assert found.warning is None
    ways = {row.key: row.correlation for row in found.keys}
    assert ways[IB] > 0.1
    assert ways[FORM] is ways["model.clip"] is None


def test_noise_is_said_to_be_noise():
    rng = random.Random(1)
    found = importance(drawn(40, lambda _: rng.gauss(30, 1)), [IB, TR])
    assert found.explained <= 0
    assert "mean nothing" in found.warning


@pytest.mark.parametrize(
    ("count", "says"), [(3, "fewer than 8, and means little below 20"), (12, "20 would be needed")]
)
def test_too_few_settings_are_named_with_the_number_that_would_do(count, says):
    found = importance(drawn(count, lambda values: math.log10(values[IB])), [IB])
    assert says in found.warning
    assert found.needed == 20
    assert (found.keys[0].share is None) == (count < 8)


def test_settings_that_came_out_the_same_and_no_keys_are_no_error():
    assert "came out the same" in importance(drawn(10, lambda _: 5.0), [IB]).warning
    assert importance(drawn(10, lambda _: 5.0), []) is None
    assert importance([], [IB]).keys[0].share is None

"""How often a sweep of settings that are all alike claims a difference, and how large one must be to be found."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from tests.unit.tune.made_sweep import TR, seeds, sweep_config
from tune.comparison.noise import against_best, against_named
from tune.comparison.settings import group, rank
from tune.comparison.statistics import common_noise, largest
from tune.comparison.statistics import difference as between
from tune.record import SweepRecord

SWEEPS = 2000
SIZES = list(itertools.product((8, 20), (3, 10)))
"""Settings and seeds."""


def normal(rng, shape):
    return rng.standard_normal(shape)


def seeds_that_matter(rng, shape):
    return rng.standard_normal(shape) + 2 * rng.standard_normal((shape[0], 1, shape[2]))


def coarse_steps(rng, shape):
    return np.round(rng.standard_normal(shape))


def steps_of_a_recall(rng, shape):
    return 100 * rng.binomial(240, 0.45, shape) / 240


def heavy_tails(rng, shape):
    return rng.standard_t(3, shape)


def skew(rng, shape):
    return -np.exp(rng.standard_normal(shape))


def runs_that_collapse(rng, shape):
    return rng.standard_normal(shape) - 20 * (rng.random(shape) < 0.15)


def one_unsteady_setting(rng, shape):
    scores = rng.standard_normal(shape)
    scores[:, 0] *= 10
    return scores


def half_unsteady(rng, shape):
    scores = rng.standard_normal(shape)
    scores[:, ::2] *= 10
    return scores


def two_families(rng, shape):
    """Seeds do the same to the settings of a family, and something else to those of the other."""
    shared = rng.standard_normal((shape[0], 2, shape[2]))
    return 0.3 * rng.standard_normal(shape) + np.repeat(shared, shape[1] // 2, axis=1)


KINDS = [
    normal,
    seeds_that_matter,
    coarse_steps,
    steps_of_a_recall,
    heavy_tails,
    skew,
    runs_that_collapse,
    one_unsteady_setting,
    half_unsteady,
    two_families,
]


@cache
def quantile(settings, freedom):
    return stats.studentized_range.ppf(0.95, settings, freedom)


def claims_against_best(scores):
    """Which settings are told apart from the best of their sweep; [sweeps, settings] of scores [sweeps, settings, n].

    The plain form of ``against_best`` with critical values, for many sweeps at once.
    """
    sweeps, settings, n = scores.shape
    best = scores.mean(axis=2).argmax(axis=1)
    apart = scores[np.arange(sweeps), best][:, None] - scores
    own = apart.std(axis=2, ddof=1) / math.sqrt(n)
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=2, keepdims=True)
    left += scores.mean(axis=(1, 2), keepdims=True)
    freedom = (settings - 1) * (n - 1)
    shared = np.sqrt((left**2).sum(axis=(1, 2)) / freedom * 2 / n)[:, None]
    critical = [quantile(settings, each) / math.sqrt(2) for each in (n - 1, freedom)]
    far = apart.mean(axis=2)
    return (own > 1e-9) & (far > critical[0] * own) & (far > critical[1] * shared)


def claims_against_first(scores):
    """Which sweeps claim a difference from their first setting, named beforehand: paired t, Holm's first step."""
    _, settings, n = scores.shape
    apart = scores[:, 1:] - scores[:, :1]
    own = apart.std(axis=2, ddof=1) / math.sqrt(n)
    far = np.divide(np.abs(apart.mean(axis=2)), own, out=np.zeros(own.shape), where=own > 1e-9)
    return (far > stats.t.ppf(1 - 0.05 / 2 / (settings - 1), n - 1)).any(axis=1)


def settings_of(scores):
    trials = []
    for number, row in enumerate(scores):
        trials += seeds(len(trials), row.tolist(), **{TR: number})
    config = sweep_config()
    return group(SweepRecord("weights", "k", config.model_dump(mode="json"), trials), config)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_alike_settings_are_told_apart_from_their_best_in_at_most_6_of_100_sweeps(kind):
    rng = np.random.default_rng(3)
    rates = {size: claims_against_best(kind(rng, (SWEEPS, *size))).any(axis=1).mean() for size in SIZES}
    assert max(rates.values()) <= 0.06, rates


@pytest.mark.parametrize(
    "kind", [normal, seeds_that_matter, coarse_steps, steps_of_a_recall, heavy_tails, half_unsteady]
)
def test_alike_settings_are_told_apart_from_a_named_one_in_at_most_6_of_100_sweeps(kind):
    rng = np.random.default_rng(4)
    rates = {size: claims_against_first(kind(rng, (SWEEPS, *size))).mean() for size in SIZES}
    assert max(rates.values()) <= 0.06, rates


def test_a_setting_picked_by_its_scores_cannot_be_treated_as_a_named_one():
    # What is refused: with the best one as the reference, Holm's correction would claim twice to four times too much.
    rng = np.random.default_rng(5)
    for size in SIZES:
        scores = normal(rng, (SWEEPS, *size))
        best = scores.mean(axis=2).argmax(axis=1)
        first = scores.copy()
        first[:, 0], first[np.arange(SWEEPS), best] = scores[np.arange(SWEEPS), best], scores[:, 0]
        assert claims_against_first(first).mean() > 0.07


@pytest.mark.parametrize("settings", [8, 20])
def test_settings_far_below_do_not_make_claims_among_those_that_are_alike(settings):
    rng = np.random.default_rng(6)
    for n in (3, 10):
        scores = normal(rng, (SWEEPS, settings, n))
        scores[:, settings // 2 :] -= 50
        assert claims_against_best(scores)[:, : settings // 2].any(axis=1).mean() <= 0.06


@pytest.mark.parametrize(("size", "found"), [((8, 3), 10.0), ((20, 3), 13.0), ((8, 10), 2.2), ((20, 10), 2.7)], ids=str)
def test_differences_of_the_size_that_the_docs_say_are_found_in_four_of_five_cases(size, found):
    rng = np.random.default_rng(7)
    scores = seeds_that_matter(rng, (SWEEPS, *size))
    scores[:, 0] += found
    assert claims_against_best(scores)[:, 1:].mean() == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_verdicts_are_those_that_are_simulated(size):
    rng = np.random.default_rng(8)
    apart = 6.0 if size[1] == 3 else 1.2
    scores = np.round(rng.standard_normal((3, *size)) + apart * rng.standard_normal((3, size[0], 1)), 3)
    claimed = claims_against_best(scores)
    assert 0.1 < claimed.mean() < 0.9
    for sweep, expected in zip(scores, claimed, strict=True):
        ranked, _ = rank(settings_of(sweep), 1.0)
        rows = against_best(ranked, 1.0)
        worse = {row.setting.values[TR] for row in rows if row.verdict == "worse"}
        assert worse == set(np.flatnonzero(expected))
        assert {row.verdict for row in rows} <= {"worse", "same"}
        for row in rows:
            low, high = row.found.interval
            assert low < row.found.mean < high
            assert (high < 0) == (row.verdict == "worse") == (row.adjusted < 0.05)


def test_against_a_named_setting_holm_corrects_paired_t_tests():
    rng = np.random.default_rng(9)
    scores = rng.standard_normal((6, 5)) + 2 * rng.standard_normal((6, 1))
    settings = settings_of(scores)
    rows = against_named(settings, lambda _: settings[2], 1.0)
    ps = [stats.ttest_rel(scores[row.setting.values[TR]], scores[2]).pvalue for row in rows]
    order = np.argsort(ps)
    expected = np.maximum.accumulate(np.minimum(1, np.array(ps)[order] * np.arange(5, 0, -1)))
    assert [rows[place].adjusted for place in order] == pytest.approx(expected)


def test_seeds_that_not_all_settings_have_are_left_out_or_all_count():
    full = {seed: float(value) for seed, value in enumerate([3, 5, 4, 8])}
    others = [{seed: value + shift * seed for seed, value in full.items()} for shift in (0.5, -0.25)]
    table = np.array([[group[seed] for seed in range(3)] for group in (full, *others)])
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    noise = common_noise([full, {seed: others[0][seed] for seed in range(3)}, others[1]], 3)
    assert noise.deviation == pytest.approx(math.sqrt((left**2).sum() / 4))
    assert noise.freedom == 4
    apart = common_noise([full, {10: 1.0, 11: 3.0, 12: 2.0}], 3)
    assert apart.freedom == 5
    assert apart.deviation == pytest.approx(math.sqrt((14 + 2) / 5))
    assert common_noise([full], 3) is None
    assert common_noise([full, {seed: value + 1 for seed, value in full.items()}], 3) is None


def test_two_settings_are_judged_by_the_plain_t_test():
    left, right = dict(enumerate([3.0, 5.0, 4.0, 8.0])), dict(enumerate([2.0, 4.5, 1.0, 6.0]))
    found = between(left, right)
    interval, p = largest(found, common_noise([left, right], 3), (4, 4), 2)
    expected = stats.ttest_rel(list(left.values()), list(right.values()))
    assert p == pytest.approx(expected.pvalue, abs=1e-6)
    assert interval == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-4)

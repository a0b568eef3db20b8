import pytest

from gare.common.errors import ConfigError
from gare.config.tree import build, with_overrides
from tune.space import expand, parse_space

IB, TR = "objective.information_bottleneck.weight", "objective.trust_region.weight"


def config(space, **changes):
    return build({"sweep": {"space": space} | changes})


def test_the_same_seed_gives_the_same_trials_and_another_seed_others():
    space = {IB: {"loguniform": [1e-6, 1e-2]}, TR: {"uniform": [0.0, 0.1]}}
    first = expand(config(space, trials=5))
    assert first == expand(config(space, trials=5))
    assert first != expand(config(space, trials=5, seed=1))
    assert len(first) == 5


def test_draws_lie_within_their_bounds_and_can_be_typed():
    space = {
        IB: {"loguniform": [1e-6, 1e-2]},
        TR: {"uniform": [0, 0.1]},
        "train.epochs": {"int": [2, 4]},
        "model.dropout": {"choice": [0.1, 0.3]},
    }
    trials = expand(config(space, trials=60))
    assert all(1e-6 <= t[IB] <= 1e-2 and 0 <= t[TR] <= 0.1 for t in trials)
    assert {t["train.epochs"] for t in trials} == {2, 3, 4}
    assert {t["model.dropout"] for t in trials} == {0.1, 0.3}
    assert all(float(f"{t[IB]:.4g}") == t[IB] for t in trials)
    assert sum(t[IB] < 1e-4 for t in trials) in range(15, 46)


def test_a_grid_is_crossed_with_samples_whose_draws_it_shares():
    trials = expand(
        config({IB: {"uniform": [0, 1]}, TR: {"grid": [0.0, 0.1]}, "train.seed": {"grid": [1, 2]}}, trials=3)
    )
    assert len(trials) == 12
    assert len({t[IB] for t in trials}) == 3
    assert {(t[TR], t["train.seed"]) for t in trials} == {(0.0, 1), (0.0, 2), (0.1, 1), (0.1, 2)}


def test_equal_trials_are_trained_once():
    assert len(expand(config({TR: {"grid": [0.0, 0.1]}}, trials=8))) == 2
    assert len(expand(config({TR: {"choice": [0.0, 0.1]}}, trials=40))) == 2


def test_adding_a_key_leaves_the_draws_of_the_others():
    alone = expand(config({IB: {"uniform": [0, 1]}}, trials=4))
    both = expand(config({IB: {"uniform": [0, 1]}, "model.dropout": {"uniform": [0, 0.5]}}, trials=4))
    assert [t[IB] for t in alone] == [t[IB] for t in both]


def test_every_trial_is_a_valid_config():
    base = config({IB: {"loguniform": [1e-6, 1e-2]}, "train.epochs": {"int": [1, 9]}}, trials=6)
    for overrides in expand(base):
        assert with_overrides(base, overrides).digest() != base.digest()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "empty"),
        ({"objective.trust_region.wieght": {"grid": [1.0]}}, r"Did you mean objective\.trust_region\.weight"),
        ({"runtime.workers": {"grid": [1, 2]}}, r"runtime\.workers cannot be swept"),
        ({"sweep.seed": {"grid": [1, 2]}}, r"sweep\.seed cannot be swept"),
        ({"prepare.crop": {"grid": [64, 96]}}, r"prepare\.crop cannot be swept.*same shards"),
        ({TR: [0.1, 0.2]}, r"trust_region\.weight is \[0\.1, 0\.2\]; write one of \{choice"),
        ({TR: {"normal": [0, 1]}}, "write one of"),
        ({TR: {"grid": [0.1], "choice": [0.2]}}, "write one of"),
        ({TR: {"grid": []}}, "needs a list after grid"),
        ({TR: {"choice": "hard"}}, "needs a list after choice"),
        ({TR: {"grid": [0.1, 0.1]}}, "lists a value twice"),
        ({TR: {"uniform": [1, 0]}}, r"two numbers \[low, high\]"),
        ({TR: {"uniform": [0, 1, 2]}}, r"two numbers \[low, high\]"),
        ({TR: {"uniform": [False, True]}}, r"two numbers \[low, high\]"),
        ({TR: {"loguniform": [0, 1]}}, "bounds above 0"),
        ({"train.epochs": {"int": [1, 2.5]}}, "two whole numbers"),
        ({"train.epochs": {"uniform": [1, 3]}}, r"train\.epochs cannot be 1\.0"),
        ({"model.dropout": {"uniform": [0, 1.5]}}, r"model\.dropout cannot be 1\.5"),
        ({"model.context": {"choice": ["frames", "sounds"]}}, r"model\.context cannot be 'sounds'"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_naming_the_key(space, words):
    with pytest.raises(ConfigError, match=words):
        parse_space(config(space))


def test_values_that_are_valid_alone_but_not_together_are_refused_before_anything_starts():
    space = {"model.increment": {"grid": ["cross_attention", "none"]}, "model.query": {"grid": ["gap", "text"]}}
    with pytest.raises(ConfigError, match=r"trial 3 \(model\.increment=none, model\.query=text\) does not fit"):
        expand(config(space, trials=1))

import pytest

from gare.common.errors import ConfigError
from gare.config.tree import build, with_overrides
from tune.space import expand, parse_space

IB, TR = "objective.information_bottleneck.weight", "objective.trust_region.weight"


def config(space, **changes):
    return build({"sweep": {"space": space} | changes})


def overrides(settings):
    return [planned.overrides for planned in expand(settings)]


def test_the_same_seed_gives_the_same_trials_and_another_seed_others():
    space = {IB: {"loguniform": [1e-6, 1e-2]}, TR: {"uniform": [0.0, 0.1]}}
    first = overrides(config(space, trials=5))
    assert first == overrides(config(space, trials=5))
    assert first != overrides(config(space, trials=5, seed=1))
    assert len(first) == 5


def test_draws_lie_within_their_bounds_and_can_be_typed():
    space = {
        IB: {"loguniform": [1e-6, 1e-2]},
        TR: {"uniform": [0, 0.1]},
        "train.epochs": {"int": [2, 4]},
        "model.dropout": {"choice": [0.1, 0.3]},
    }
    trials = overrides(config(space, trials=60))
    assert all(1e-6 <= t[IB] <= 1e-2 and 0 <= t[TR] <= 0.1 for t in trials)
    assert {t["train.epochs"] for t in trials} == {2, 3, 4}
    assert {t["model.dropout"] for t in trials} == {0.1, 0.3}
    assert all(float(f"{t[IB]:.4g}") == t[IB] for t in trials)
    assert sum(t[IB] < 1e-4 for t in trials) in range(15, 46)


def test_a_grid_is_crossed_with_samples_whose_draws_it_shares():
    trials = overrides(
        config({IB: {"uniform": [0, 1]}, TR: {"grid": [0.0, 0.1]}, "train.seed": {"grid": [1, 2]}}, trials=3)
    )
    assert len(trials) == 12
    assert len({t[IB] for t in trials}) == 3
    assert {(t[TR], t["train.seed"]) for t in trials} == {(0.0, 1), (0.0, 2), (0.1, 1), (0.1, 2)}


def test_equal_trials_are_trained_once():
    assert len(overrides(config({TR: {"grid": [0.0, 0.1]}}, trials=8))) == 2
    assert len(overrides(config({TR: {"choice": [0.0, 0.1]}}, trials=40))) == 2


def test_adding_a_key_leaves_the_draws_of_the_others():
    alone = overrides(config({IB: {"uniform": [0, 1]}}, trials=4))
    both = overrides(config({IB: {"uniform": [0, 1]}, "model.dropout": {"uniform": [0, 0.5]}}, trials=4))
    assert [t[IB] for t in alone] == [t[IB] for t in both]


def test_every_trial_is_a_valid_config():
    base = config({IB: {"loguniform": [1e-6, 1e-2]}, "train.epochs": {"int": [1, 9]}}, trials=6)
    for changes in overrides(base):
        assert with_overrides(base, changes).digest() != base.digest()


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
        ({TR: {"logunifrom": [1, 2]}}, r"Did you mean loguniform\?"),
        ({TR: {"grid": [0.1], "choice": [0.2]}}, "write one of"),
        ({TR: {"grid": []}}, "needs a list after grid"),
        ({TR: {"choice": "hard"}}, "needs a list after choice"),
        ({TR: {"grid": [0.1, 0.1]}}, "lists a value twice"),
        ({TR: {"uniform": [1, 0]}}, r"two numbers \[low, high\]"),
        ({TR: {"uniform": [0, 1, 2]}}, r"two numbers \[low, high\]"),
        ({TR: {"uniform": [False, True]}}, r"two numbers \[low, high\]"),
        ({TR: {"uniform": [0, 10**400]}}, r"two numbers \[low, high\]"),
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
        overrides(config(space, trials=1))


CASES = {"none": {IB: 0.0, TR: 0.0}, "bottleneck": {TR: 0.0}, "all": {}}


def test_cases_are_trained_with_every_seed_and_first_all_with_one():
    trials = expand(config({}, cases=CASES, seeds=[4, 2]))
    assert [(t.case, t.overrides["train.seed"]) for t in trials] == [(case, seed) for seed in (4, 2) for case in CASES]
    assert trials[0].overrides == {IB: 0.0, TR: 0.0, "train.seed": 4}
    assert trials[2].overrides == {"train.seed": 4}


def test_cases_are_crossed_with_the_space_and_share_its_draws():
    trials = expand(
        config({"model.dropout": {"uniform": [0, 0.5]}, "train.epochs": {"grid": [1, 2]}}, cases=CASES, trials=2)
    )
    assert len(trials) == 2 * 3 * 2
    draws = {case: [t.overrides["model.dropout"] for t in trials if t.case == case] for case in CASES}
    assert draws["none"] == draws["bottleneck"] == draws["all"]
    assert len(set(draws["all"])) == 2


def test_seeds_and_more_trials_leave_the_draws_as_they_are_and_come_after():
    space = {IB: {"uniform": [0, 1]}}
    alone = [changes[IB] for changes in overrides(config(space, trials=3))]
    seeded = overrides(config(space, trials=3, seeds=[7, 8]))
    assert [changes[IB] for changes in seeded] == [value for value in alone for _ in range(2)]
    assert [changes["train.seed"] for changes in seeded] == [7, 8] * 3
    assert overrides(config(space, trials=5, seeds=[7, 8]))[:6] == seeded


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"cases": {"a": {"objective.trust_region.wieght": 0.0}}}, r"sweep\.cases: a: There is no .*Did you mean"),
        ({"cases": {"a": {"runtime.workers": 2}}}, r"sweep\.cases: a: runtime\.workers cannot be swept"),
        ({"cases": {"a": {TR: -1.0}}}, r"sweep\.cases: a does not fit: .*trust_region\.weight is -1"),
        ({"cases": {"a": {"model.increment": "none", "model.query": "text"}}}, "a does not fit: .*no meaning"),
        ({"cases": {"a": {TR: 0.01}, "b": {}}}, "sweep.cases: b is the same experiment as a"),
        ({"cases": {"a": {TR: 0.0}}, "space": {TR: {"grid": [1.0]}}}, "a sets .*, which sweep.space varies"),
        ({"cases": {"a": {"train.seed": 0}}, "seeds": [0, 1]}, "a sets train.seed, which sweep.seeds varies"),
        ({"cases": {" ": {}}}, "is not a name for a case"),
        ({"space": {"train.seed": {"grid": [1, 2]}}, "seeds": [0, 1]}, "in sweep.space and in sweep.seeds"),
        ({"space": {TR: {"grid": [0.0, 1.0]}}, "search": "optuna"}, "is a grid, .* write choice"),
        ({"search": "optuna"}, "sweep.space is empty"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_naming_the_key(sweep, words):
    with pytest.raises(ConfigError, match=words):
        expand(build({"sweep": sweep}))


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"seeds": []}, "list different whole numbers"),
        ({"seeds": [1, 1]}, "list different whole numbers"),
        ({"seeds": [-1]}, "list different whole numbers"),
        ({"confirm": 2}, "sweep.confirm goes with sweep.search: optuna"),
        ({"search": "optuna", "cases": CASES}, "go with sweep.search: random"),
        ({"search": "optuna", "confirm": 2}, "at least two seeds"),
        ({"search": "optuna", "confirm": 2, "seeds": [1]}, "at least two seeds"),
        ({"search": "optuna", "seeds": [1, 2]}, "set both"),
        ({"search": "optuna", "confirm": 9, "seeds": [1, 2], "trials": 8}, "more than the 8 settings"),
        ({"cases": {"a": 3}}, "sweep.cases.a is 3"),
        ({"search": "tpe"}, "sweep.search is 'tpe'"),
    ],
)
def test_settings_of_a_sweep_that_do_not_go_together_are_refused_when_read(sweep, words):
    with pytest.raises(ConfigError, match=words):
        build({"sweep": sweep})


def test_with_a_searcher_no_trial_is_known_up_front():
    assert expand(config({TR: {"uniform": [0.0, 0.1]}}, search="optuna")) == []

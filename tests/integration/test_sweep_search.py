"""A sweep with a searcher through Ray Tune, with a stand-in for training that takes no time."""

import sys

import optuna
import pytest
from optuna.trial import TrialState
from ray import cloudpickle

from gare.config.tree import build
from gare.runs.layout import run_directory
from gare.runs.state import RunSummary
from tune.study import STUDY_FILE, STUDY_NAME
from tune.sweep import run_sweep

METRIC, WEIGHT = "dev/t2v/R@1", "objective.trust_region.weight"

# Ray's workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def pretend(config, *, callbacks, quiet, stop):
    """Train nothing: the metric is best at weight 0.03, and the seed adds a little."""
    folder = run_directory(config)
    folder.mkdir(parents=True)  # a trial that is trained twice ends here
    metrics = {METRIC: 50 - 400 * abs(config.objective.trust_region.weight - 0.03) + config.train.seed / 10}
    return RunSummary(config.run_name(), str(folder), str(folder / "best"), metrics, 1, 7, 0.1)


def told(folder):
    study = optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{folder / STUDY_FILE}")
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    return [(trial.params[WEIGHT], trial.value) for trial in study.trials]


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_is_told_its_results_confirmed_and_extended_and_repeats_nothing(ray_cluster, tmp_path):
    config = build(
        {
            "sweep": {
                "space": {WEIGHT: {"uniform": [0.0, 0.1]}},
                "search": "optuna",
                "trials": 5,
                "seeds": [1, 2],
                "confirm": 2,
                "max_concurrent": 2,
            },
            "runtime": {"name": "found", "output": str(tmp_path), "tracking": False},
        }
    )
    seen = []
    trials = run_sweep(config, on_progress=lambda *event: seen.append(event), trainer=pretend).record.trials
    searched, confirmed = trials[:5], trials[5:]
    assert {trial.status for trial in trials} == {"done"}
    assert [(trial.stage, trial.overrides["train.seed"]) for trial in trials] == [("search", 1)] * 5 + [
        ("confirm", 2)
    ] * 2
    best = sorted(searched, key=lambda trial: -trial.metrics[METRIC])[:2]
    assert [trial.overrides[WEIGHT] for trial in confirmed] == [trial.overrides[WEIGHT] for trial in best]
    assert sorted(told(tmp_path / "found")) == sorted((t.overrides[WEIGHT], t.metrics[METRIC]) for t in searched)
    assert seen[-1][1:] == (7, 7)

    assert run_sweep(config, on_progress=lambda *_: None, trainer=pretend).record.trials == trials
    more = run_sweep(config, on_progress=lambda *_: None, trainer=pretend, extend=3).record.trials
    assert more[:7] == trials
    assert [trial.stage for trial in more[7:10]] == ["search"] * 3
    assert {trial.error for trial in more} == {None}
    assert len(told(tmp_path / "found")) == 8
    assert len({trial.overrides[WEIGHT] for trial in more if trial.stage == "search"}) == 8

"""The searcher on its own: what it suggests, and what it knows after its driver was killed."""

import optuna
import pytest
from optuna.trial import TrialState

from gare.common.errors import ConfigError
from gare.config.tree import build
from tune.opening import confirmations
from tune.record import SweepRecord, Trial
from tune.space import expand, parse_space
from tune.study import STUDY_FILE, STUDY_NAME, StudySearch

IB, TR, METRIC = "objective.information_bottleneck.weight", "objective.trust_region.weight", "dev/t2v/R@1"
SPACE = {
    IB: {"loguniform": [1e-6, 1e-2]},
    TR: {"uniform": [0.0, 0.1]},
    "model.context": {"choice": ["frames", "words"]},
}


def config(**changes):
    return build({"sweep": {"space": SPACE, "search": "optuna", "trials": 9} | changes})


class Driver:
    """A sweep's driver without Tune: a record on disk and a trial after the other."""

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        self.record = (
            SweepRecord.read(folder)
            if (folder / "sweep.json").is_file()
            else SweepRecord("s", "k", settings.model_dump(mode="json"), [])
        )
        for trial in self.record.trials:
            trial.status = "pending" if trial.status in {"running", "failed"} else trial.status
        self.search = StudySearch(settings, folder, self.record, self.add, lambda index: {"trial": index})
        self.ids = 0

    def add(self, planned):
        self.record.trials.append(Trial(f"trial-{len(self.record.trials):03d}", planned.overrides, "", "running"))
        self.record.write(self.folder)
        return len(self.record.trials) - 1

    def suggest(self):
        self.ids += 1
        chosen = self.search.suggest(str(self.ids))
        return None if chosen == "FINISHED" else (str(self.ids), chosen["trial"])

    def end(self, id_, index, status="done"):
        trial = self.record.trials[index]
        value = score(trial.overrides)
        self.search.on_trial_result(id_, {METRIC: value / 2, "epoch": 1})
        outcome = {} if status == "stopped" else {"outcome": {"status": status}}
        result = {METRIC: value, "epoch": 2} | outcome
        self.search.on_trial_result(id_, result)
        self.search.on_trial_complete(id_, result)
        trial.status, trial.metrics = status, {METRIC: value}
        self.record.write(self.folder)

    def run(self, count=100, status="done"):
        while count and (suggested := self.suggest()):
            self.end(*suggested, status)
            count -= 1
        return [trial.overrides for trial in self.record.trials]

    def study(self):
        return optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{self.folder / STUDY_FILE}")

    def states(self):
        return [trial.state for trial in self.study().trials]


def score(overrides):
    return 50 - 400 * abs(overrides[TR] - 0.03) + (overrides["model.context"] == "frames")


def test_trials_are_what_the_seed_says_and_begin_as_a_random_search_does(tmp_path):
    found = Driver(tmp_path / "a", config()).run()
    assert found == Driver(tmp_path / "b", config()).run()
    assert found != Driver(tmp_path / "c", config(seed=1)).run()
    assert len(found) == 9
    assert found[:3] == [planned.overrides for planned in expand(config(search="random"))[:3]]
    assert all(float(f"{t[IB]:.4g}") == t[IB] and 1e-6 <= t[IB] <= 1e-2 for t in found)


def test_the_search_learns_from_results(tmp_path):
    driver = Driver(tmp_path, config(trials=24))
    scores = [score(overrides) for overrides in driver.run()]
    assert sum(scores[-8:]) / 8 > sum(scores[:8]) / 8
    assert [t.params[TR] for t in driver.study().trials] == [t.overrides[TR] for t in driver.record.trials]


def test_a_killed_driver_goes_on_with_the_same_search_and_no_trial_is_lost_or_repeated(tmp_path):
    whole = Driver(tmp_path / "whole", config()).run()
    killed = Driver(tmp_path / "killed", config())
    killed.run(4)
    killed.suggest()  # its row is written, and then the driver dies
    again = Driver(tmp_path / "killed", config())
    assert again.search.remaining == 5
    assert again.states() == [TrialState.COMPLETE] * 4 + [TrialState.FAIL]
    first = again.suggest()
    assert first[1] == 4
    again.end(*first)
    found = again.run()
    assert len(found) == 9
    assert found[:5] == whole[:5]
    assert len({str(overrides) for overrides in found}) == 9
    assert again.states() == [TrialState.COMPLETE] * 4 + [TrialState.FAIL] + [TrialState.COMPLETE] * 5
    assert Driver(tmp_path / "killed", config()).suggest() is None


def test_a_suggestion_the_record_never_saw_does_not_stay_running(tmp_path):
    driver = Driver(tmp_path, config())
    driver.search._new()
    driver.search._ot_study.enqueue_trial({IB: 1e-3})
    again = Driver(tmp_path, config())
    assert again.states() == [TrialState.FAIL] * 2
    assert again.search.remaining == 9


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_the_study_is_made_again_from_the_record(tmp_path, damage, capsys):
    driver = Driver(tmp_path, config())
    driver.run(3)
    driver.end(*driver.suggest(), "stopped")
    driver.end(*driver.suggest(), "failed")
    if damage == "gone":
        (tmp_path / STUDY_FILE).unlink()
    else:
        (tmp_path / STUDY_FILE).write_bytes(b"not a database" * 100)
    driver.record.trials[4].status = "failed"
    again = Driver(tmp_path, config())
    assert again.states() == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]
    assert [t.value for t in again.study().trials[:3]] == [t.metrics[METRIC] for t in driver.record.trials[:3]]
    assert again.search.remaining == 5
    assert ("made again" in capsys.readouterr().err) == (damage == "damaged")


def test_stopped_trials_are_told_as_pruned_and_failed_ones_as_failed(tmp_path):
    driver = Driver(tmp_path, config())
    driver.end(*driver.suggest(), "stopped")
    id_, _ = driver.suggest()
    driver.search.on_trial_complete(id_, None, error=True)
    id_, _ = driver.suggest()
    driver.search.on_trial_complete(id_, {METRIC: float("nan"), "outcome": {"status": "done"}})
    assert driver.states() == [TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert list(driver.study().trials[0].intermediate_values) == [1, 2]


def test_a_small_space_is_searched_through_without_repeats(tmp_path):
    space = {"model.context": {"choice": ["frames", "words"]}, "train.freeze": {"choice": [[], ["text_tower"]]}}
    driver = Driver(tmp_path, config(space=space))
    found = []
    while suggested := driver.suggest():
        found.append(driver.record.trials[suggested[1]].overrides)
    assert sorted(map(str, found)) == sorted(map(str, {str(overrides): overrides for overrides in found}.values()))
    assert len(found) == 4
    assert {str(overrides["train.freeze"]) for overrides in found} == {"[]", "['text_tower']"}


def test_values_that_do_not_fit_together_are_refused_first_or_never_trained(tmp_path):
    space = {"model.increment": {"choice": ["cross_attention", "none"]}, "model.query": {"choice": ["gap", "text"]}}
    with pytest.raises(ConfigError, match=r"increment=none, model\.query=text do not fit together"):
        parse_space(config(space=space))
    odd = build(
        {
            "train": {"global_batch": 8},
            "runtime": {"workers": 2},
            "sweep": {"space": {"train.global_batch": {"int": [2, 16]}}, "search": "optuna", "trials": 5},
        }
    )
    found = []
    driver = Driver(tmp_path, odd)
    while suggested := driver.suggest():
        found.append(driver.record.trials[suggested[1]].overrides["train.global_batch"])
    assert len(found) == 5
    assert all(batch % 2 == 0 for batch in found)


def test_the_best_settings_are_confirmed_with_every_seed(tmp_path):
    settings = config(seeds=[3, 4, 5], confirm=2)
    driver = Driver(tmp_path, settings)
    assert {overrides["train.seed"] for overrides in driver.run()} == {3}
    best = sorted(driver.record.trials, key=lambda trial: -trial.metrics[METRIC])
    best[0].status = "stopped"  # what asha stopped comes last, whatever it had reached
    planned = confirmations(settings, driver.record)
    assert [(p.overrides[TR], p.overrides["train.seed"]) for p in planned] == [
        (best[1].overrides[TR], 4), (best[1].overrides[TR], 5),
        (best[2].overrides[TR], 4), (best[2].overrides[TR], 5),
    ]  # fmt: skip
    for trial in best[1:]:
        trial.status = "stopped"
    assert [p.overrides["train.seed"] for p in confirmations(settings, driver.record)] == [3, 4, 5] * 2

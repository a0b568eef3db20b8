"""One trial in its process, and what Tune is given for it."""

import json
import queue
import threading

import pytest
from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from gare.common.errors import ConfigError, RunError
from gare.config.tree import build
from gare.runs.state import RunSummary
from tune.launch import Listed, asha
from tune.record import SweepRecord, Trial
from tune.trial import OUTCOME, TrialActor, Zones, chosen, run_trial

METRIC = "dev/t2v/R@1"


def plan(**sweep):
    values = {"sweep": {"metric": METRIC} | sweep, "runtime": {"name": "s", "output": "/runs"}, "train": {"epochs": 4}}
    return build(values).model_dump(mode="json")


def told(trainer, index=0, zone=None, **overrides):
    """What a trial says, in order."""
    events = queue.Queue()
    job = chosen(index, f"trial-{index:03d}", overrides, zone)
    run_trial(job, plan(), trainer, events.put, threading.Event())
    return list(events.queue)


def epochs(config, *, callbacks, **_):
    for epoch in range(1, config.train.epochs + 1):
        callbacks[0].after_report(None, [{"epoch": epoch, METRIC: float(epoch), "history": [1]}], None)
    return RunSummary(config.run_name(), "", "best", {METRIC: 4.0}, config.train.epochs, 40, 2.5)


def test_a_trial_tells_its_epochs_and_last_its_outcome():
    events = told(epochs, **{"train.epochs": 3})
    assert events[:2] == [{"epoch": 1, METRIC: 1.0}, {"epoch": 2, METRIC: 2.0}]
    assert len(events) == 3
    assert events[2]["done"]
    outcome = events[2][OUTCOME]
    assert (outcome["status"], outcome["epochs"], outcome["train_s"]) == ("done", 3, 2.5)


def test_a_trial_is_told_its_zone_where_there_are_several():
    places = []

    def notes(config, *, callbacks, quiet, stop, **place):
        places.append(place)
        return epochs(config, callbacks=callbacks)

    told(notes)
    told(notes, zone="b")
    assert places == [{}, {"zone": "b"}]


@pytest.mark.parametrize("error", [RunError("no room\nat all"), ValueError("no room")])
def test_a_failure_is_an_outcome_in_one_line(error):
    def breaks(config, **_):
        raise error

    (event,) = told(breaks)
    assert event[OUTCOME] == {"status": "failed", "error": f"{type(error).__name__}: no room"}
    assert event["done"]


def test_a_trial_without_a_finite_metric_has_failed():
    def blind(config, **_):
        return RunSummary("t", "", "best", {METRIC: float("nan")}, 1, 1, 0.1)

    assert "without a finite dev/t2v/R@1" in told(blind)[-1][OUTCOME]["error"]


def test_the_callback_travels_to_workers_without_its_queue():
    def sends(config, *, callbacks, **_):
        assert type(cloudpickle.loads(cloudpickle.dumps(callbacks[0]))).__name__ == "UserCallback"
        return epochs(config, callbacks=callbacks)

    assert told(sends)[-1][OUTCOME]["status"] == "done"


def test_a_process_ends_a_trial_before_the_next_one_starts():
    ended = []

    def endless(config, *, stop, **_):
        assert stop.wait(30)
        ended.append(config.run_name())
        raise RunError("stopped")

    actor = TrialActor.__new__(TrialActor)
    actor.setup(chosen(0, "trial-000", {}), plan(), endless)
    actor.begin()
    assert actor.reset_config(chosen(1, "trial-001", {}))
    assert ended == ["s/trial-000"]
    actor.begin()
    actor.cleanup()
    assert ended == ["s/trial-000", "s/trial-001"]


def test_a_process_that_is_made_for_a_trial_and_never_asked_trains_nothing():
    trained = []
    actor = TrialActor.__new__(TrialActor)
    actor.setup(chosen(0, "trial-000", {}), plan(), lambda *_, **__: trained.append(1))
    actor.cleanup()
    assert actor.reset_config(chosen(1, "trial-001", {}))
    actor.cleanup()
    assert trained == []


def test_a_list_is_suggested_in_order_and_opened_one_by_one():
    opened = []
    listed = Listed([4, 2], lambda index: opened.append(index) or {"trial": index})
    assert listed.suggest("a") == {"trial": 4}
    assert opened == [4]
    assert listed.suggest("b") == {"trial": 2}
    assert listed.suggest("c") == Listed.FINISHED


def record_of(folder, curves):
    trials = []
    for number, curve in enumerate(curves):
        run = folder / f"trial-{number:03d}"
        run.mkdir()
        rows = [{"step": n, "epoch": n, METRIC: value} for n, value in enumerate(curve, 1)]
        (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        trials.append(Trial(run.name, {}, str(run), status="done"))
    return SweepRecord("s", "k", {}, trials)


def test_asha_of_a_resumed_sweep_knows_the_trials_before(tmp_path):
    config = build({"sweep": {"scheduler": "asha", "metric": METRIC}, "train": {"epochs": 4}})
    past = record_of(tmp_path, [[10.0, 11.0, 12.0, 13.0], [9.0, 9.0, 9.0, 9.0]])
    new = Trial("new", {}, "")
    new.trial_id = "new"
    for record, decides in ((past, TrialScheduler.STOP), (SweepRecord("s", "k", {}, []), TrialScheduler.CONTINUE)):
        scheduler = asha(config, record)
        scheduler.on_trial_add(None, new)
        assert scheduler.on_trial_result(None, new, {"epoch": 1, METRIC: 1.0}) == decides


def test_asha_that_could_stop_nothing_is_refused():
    config = build({"sweep": {"scheduler": "asha", "grace_epochs": 4}, "train": {"epochs": 4}})
    with pytest.raises(ConfigError, match=r"sweep\.grace_epochs is 4"):
        asha(config, SweepRecord("s", "k", {}, []))


def test_trials_take_the_zone_with_most_places_left():
    zones = Zones(["a", "b", "b"])
    assert zones.slots == 3
    assert [zones.take(trial) for trial in range(3)] == ["b", "a", "b"]
    zones.give_back(1)
    assert zones.take(3) == "a"


def test_a_trial_that_starts_again_takes_no_second_place():
    zones = Zones(["a", "b"])
    assert zones.take(0) == zones.take(0) == "a"
    assert zones.take(1) == "b"


def test_one_trial_more_than_there_are_places_is_still_given_one():
    zones = Zones(["a"])
    assert [zones.take(0), zones.take(1)] == ["a", "a"]
    zones.give_back(7)


def test_without_zones_there_is_nothing_to_choose():
    assert Zones([None, None]).take(0) is None

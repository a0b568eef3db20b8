"""What a sweep tells the tracker and its user of its trials; without Ray's processes and without MLflow."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gare.common.errors import RunError
from tests.unit.tune.made_sweep import IB, sweep_config, trial
from tune.ledger import Ledger
from tune.recorder import Recorder, TuneCallback
from tune.space import Planned
from tune.sweep import _raise_unfinished
from tune.zones import Zones


class Tracker:
    """Writes down what it is told; runs are r0, r1, ..."""

    def __init__(self):
        self.started, self.finished, self.resumed, self.tags = [], [], [], {}

    def start(self, name, *, tags, parent_run_id=None, **_):
        self.started.append((name, tags, parent_run_id))
        return f"r{len(self.started) - 1}"

    def resume(self, run_id):
        self.resumed.append(run_id)

    def finish(self, run_id, status="FINISHED"):
        self.finished.append((run_id, status))

    def tag(self, run_id, tags):
        self.tags[run_id] = tags

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (["failed", "failed"], "All 2 trials failed; the first: RunError: it broke"),
        (["failed", "pending"], "was interrupted with 1 of 2 trials to go"),
        (["failed", "done"], None),
    ],
)
def test_a_sweep_is_unfinished_with_open_trials_and_with_failed_ones_alone(ends, says):
    ledger = Ledger("weights", "k", {}, [trial(number, 1.0, end) for number, end in enumerate(ends)])
    with pytest.raises(RunError, match=says) if says else nullcontext():
        _raise_unfinished(ledger)


def begun(folder, tracker):
    """A sweep whose two trials were started, one of them of a case."""
    config = sweep_config()
    ledger = Ledger("weights", "k", config.model_dump(mode="json"), [])
    recorder = Recorder(folder, ledger, config, tracker, lambda *_: None, 2, Zones([None, None]))
    recorder.start(2, 0.0)
    recorder.add_all([Planned("both", {IB: 0.5}), Planned(None, {IB: 0.25})])
    for index in range(2):
        recorder.chosen(index)
        recorder.trial_started(index)
    return recorder, ledger


def test_trials_are_runs_below_the_sweeps_and_say_their_case(tmp_path):
    tracker = Tracker()
    begun(tmp_path, tracker)
    (sweep, tags, above), *trials = tracker.started
    assert (sweep, tags["gare.kind"], above) == ("weights", "sweep", None)
    assert [(name, tags.get("gare.case"), above) for name, tags, above in trials] == [
        ("weights/trial-000 both", "both", "r0"),
        ("weights/trial-001", None, "r0"),
    ]


def test_what_was_interrupted_ends_as_killed_and_is_taken_up_as_the_same_run(tmp_path):
    tracker = Tracker()
    recorder, ledger = begun(tmp_path, tracker)
    recorder.trial_ended(0, {"status": "failed", "error": "RunError: it broke"})
    recorder.close()
    assert tracker.finished == [("r1", "FAILED"), ("r2", "KILLED"), ("r0", "KILLED")]
    assert tracker.tags == {"r1": {"gare.trial_status": "failed", "gare.error": "RunError: it broke"}}
    assert [trial.status for trial in Ledger.read(tmp_path).trials] == ["failed", "pending"]
    recorder.chosen(1)
    assert (tracker.resumed, ledger.trials[1].attempts) == (["r2"], 2)


def test_a_trial_whose_process_is_gone_is_pending_and_counted_again_only_if_it_starts_again(tmp_path):
    recorder, ledger = begun(tmp_path, None)
    callback, lost = TuneCallback(recorder), SimpleNamespace(config={"trial": 0}, error_file=None)
    callback.on_trial_recover(0, [], lost)
    assert (ledger.trials[0].status, ledger.trials[0].attempts) == ("pending", 2)
    callback.on_trial_error(0, [], lost)
    assert (ledger.trials[0].status, ledger.trials[0].attempts) == ("failed", 2)
    assert "process died" in ledger.trials[0].error


def test_without_a_tracker_the_record_is_kept_all_the_same(tmp_path):
    recorder, _ = begun(tmp_path, None)
    recorder.close()
    assert [trial.run_id for trial in Ledger.read(tmp_path).trials] == [None, None]

"""What a sweep tells the tracker and its user of its trials; without Ray's processes and without MLflow."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gare.common.errors import RunError
from gare.config.tree import with_overrides
from gare.tracking.tracker import Found
from gare.tracking.trackers import TRACKERS, tracker_at
from tests.unit.tune.made_sweep import IB, METRIC, sweep_config, trial
from tune.comparison import compare
from tune.record import SweepRecord
from tune.recorder import Recorder, TuneCallback
from tune.space import Planned
from tune.sweep import _raise_unfinished
from tune.trial import Zones


class Told:
    """A tracker that writes down what it is told; runs are r0, r1, ..."""

    def __init__(self):
        self.started, self.statuses, self.tags = [], [], {}

    def find(self, record, parent):
        if record.run_id is not None:
            return Found(record.run_id)
        known = {each[0]: f"r{number}" for number, each in enumerate(self.started)}
        if record.token not in known:
            self.started.append((record.token, record.name, dict(record.tags), parent))
        return Found(known.get(record.token, f"r{len(self.started) - 1}"))

    def log(self, run_id, changes):
        self.tags.setdefault(run_id, {}).update(changes.tags)
        if changes.status is not None:
            self.statuses.append((run_id, changes.status))

    def copy(self, run_id, path, to):
        pass


@pytest.fixture
def told(monkeypatch):
    tracker = Told()
    monkeypatch.setitem(TRACKERS, "told", lambda *_: tracker)
    tracker_at.cache_clear()
    yield tracker
    tracker_at.cache_clear()


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (["failed", "failed"], "All 2 trials failed; the first: RunError: it broke"),
        (["failed", "pending"], "was interrupted with 1 of 2 trials to go"),
        (["failed", "done"], None),
    ],
)
def test_a_sweep_is_unfinished_with_open_trials_and_with_failed_ones_alone(ends, says):
    record = SweepRecord("weights", "k", {}, [trial(number, 1.0, end) for number, end in enumerate(ends)])
    with pytest.raises(RunError, match=says) if says else nullcontext():
        _raise_unfinished(record)


def begun(folder, **runtime):
    """A sweep whose two trials were started, one of them of a case."""
    changes = {"output": str(folder), "tracking_uri": "told:here"} | runtime
    config = with_overrides(sweep_config(), {f"runtime.{key}": value for key, value in changes.items()})
    record = SweepRecord("weights", "k", config.model_dump(mode="json"), [])
    recorder = Recorder(folder / "weights", record, config, lambda *_: None, 2, Zones([None, None]))
    (folder / "weights").mkdir()
    recorder.start(2, 0.0)
    recorder.add_all([Planned("both", {IB: 0.5}), Planned(None, {IB: 0.25})])
    for index in range(2):
        recorder.chosen(index)
        recorder.trial_started(index)
    return recorder, record


def test_trials_are_runs_below_the_sweeps_and_say_their_case(tmp_path, told):
    begun(tmp_path)
    (_, sweep, tags, above), *trials = told.started
    assert (sweep, tags["gare.kind"], above) == ("weights", "sweep", None)
    assert [(name, tags.get("gare.case"), above) for _, name, tags, above in trials] == [
        ("weights/trial-000 both", "both", "r0"),
        ("weights/trial-001", None, "r0"),
    ]


def test_what_was_interrupted_ends_as_killed_and_is_taken_up_as_the_same_run(tmp_path, told):
    recorder, record = begun(tmp_path)
    recorder.trial_ended(0, {"status": "failed", "error": "RunError: it broke"})
    recorder.close()
    ended = [status for status in told.statuses if status[1] != "RUNNING"]
    assert ended == [("r1", "FAILED"), ("r2", "KILLED"), ("r0", "KILLED")]
    assert told.tags["r1"].items() >= {"gare.trial_status": "failed", "gare.error": "RunError: it broke"}.items()
    assert "gare.trial_status" not in told.tags["r2"]
    assert [trial.status for trial in SweepRecord.read(tmp_path / "weights").trials] == ["failed", "pending"]
    recorder.chosen(1)
    assert (told.statuses[-1], record.trials[1].run_id, record.trials[1].attempts) == (("r2", "RUNNING"), "r2", 2)
    assert len(told.started) == 3


def test_a_trial_whose_process_is_gone_is_pending_and_counted_again_only_if_it_starts_again(tmp_path):
    recorder, record = begun(tmp_path, tracking=False)
    callback, lost = TuneCallback(recorder), SimpleNamespace(config={"trial": 0}, error_file=None)
    callback.on_trial_recover(0, [], lost)
    assert (record.trials[0].status, record.trials[0].attempts) == ("pending", 2)
    callback.on_trial_error(0, [], lost)
    assert (record.trials[0].status, record.trials[0].attempts) == ("failed", 2)
    assert "process died" in record.trials[0].error


def test_without_a_tracker_the_record_is_kept_all_the_same(tmp_path):
    recorder, _ = begun(tmp_path, tracking=False)
    recorder.close()
    assert [trial.run_id for trial in SweepRecord.read(tmp_path / "weights").trials] == [None, None]
    assert not list(tmp_path.rglob("tracking.json"))


def test_a_finished_sweep_of_a_former_version_sends_what_waits(tmp_path, told):
    recorder, record = begun(tmp_path)
    for index in range(2):
        recorder.trial_ended(index, {"status": "done", "metrics": {METRIC: 50.0 + index}})
    recorder.close()
    folder = tmp_path / "weights"
    for kept in folder.rglob("tracking.json"):
        kept.unlink()
    runs = ["r0", "r1", "r2"]
    assert [record.run_id, *(one.run_id for one in record.trials)] == runs
    waiting = {"op": "tags", "run": "r1", "tags": {"waited": "yes"}}
    name = f"mlflow-spool-{hashlib.sha256(b'told:here').hexdigest()[:8]}.jsonl"
    (folder / "trial-000" / name).write_text(json.dumps(waiting) + "\n")
    recorder.conclude(compare(folder))
    assert told.tags["r1"]["waited"] == "yes"
    assert not (folder / "trial-000" / name).exists()
    assert [record.run_id, *(one.run_id for one in record.trials)] == runs
    assert told.tags["r0"]["gare.best_trial"] == "trial-001"

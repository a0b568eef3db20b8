"""The record of a sweep on disk."""

import json

import pytest

from gare.common.errors import InputError
from gare.config.tree import build
from tune.record import SWEEP_FILE, Launch, SweepRecord, Trial

V1_TRIAL = {
    "name": "trial-000",
    "overrides": {"train.epochs": 3},
    "directory": "/runs/s/trial-000",
    "status": "done",
    "metrics": {"dev/t2v/R@1": 12.5},
    "best": "/runs/s/trial-000/checkpoints/epoch-0001",
    "error": None,
    "seconds": 9.0,
    "run_id": "abc",
}


def made():
    config = build({"runtime": {"name": "s"}}).model_dump(mode="json")
    trials = [
        Trial("trial-000", {"train.seed": 1}, "/d", status="done", case="a", stage="confirm", attempts=2, train_s=30.0),
        Trial("trial-001", {}, "/e", train_s=10.0),
    ]
    return SweepRecord(
        "s", "k", config, trials, launches=[Launch(2, 20.0), Launch(1, 10.0)], dataset={"dataset_digest": "d"}
    )


def test_what_is_written_is_read_again(tmp_path):
    made().write(tmp_path)
    assert SweepRecord.read(tmp_path) == made()


def test_a_record_of_version_1_is_read_with_defaults_for_what_it_lacks(tmp_path):
    config = build({"runtime": {"name": "s"}}).model_dump(mode="json")
    for new in ("cases", "seeds", "search", "confirm"):
        config["sweep"].pop(new)
    old = {"name": "s", "key": "k", "config": config, "trials": [V1_TRIAL], "run_id": "parent", "version": 1}
    (tmp_path / SWEEP_FILE).write_text(json.dumps(old))
    record = SweepRecord.read(tmp_path)
    trial = record.trials[0]
    assert (trial.case, trial.stage, trial.attempts, trial.settled) == (None, "search", 0, True)
    assert (record.version, record.extended, record.launches) == (2, 0, [])
    assert record.overhead() is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 3}, "has version 3; this gare reads versions 1 and 2"),
        ({"trials": [{"name": 1}]}, "is damaged"),
        ({"launches": [{"slots": 1, "pace": 2}]}, "is damaged"),
        ({"trials": 5}, "is damaged"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, change, says):
    made().write(tmp_path)
    path = tmp_path / SWEEP_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=says):
        SweepRecord.read(tmp_path)


def test_overhead_is_the_slots_time_that_was_not_training():
    assert made().overhead() == pytest.approx((2 * 20 + 10) / 40 - 1)

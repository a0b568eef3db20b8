"""A sweep's folder begun, taken up again, and extended."""

from pathlib import Path

import pytest

from gare.common.errors import ConfigError, InputError
from gare.config.tree import build, with_overrides
from gare.runs.state import RunState, write_state
from tune.opening import missing, open_record, resolved
from tune.record import SweepRecord, Trial

WEIGHT = "objective.trust_region.weight"
DATA = {"dataset_digest": "d1", "recipe_digest": "r1"}


def settings(folder, spec=None, **sweep):
    sweep = {"space": {WEIGHT: spec or {"uniform": [0.1, 0.9]}}, "trials": 3} | sweep
    return resolved(build({"sweep": sweep, "runtime": {"name": "s", "output": str(folder), "shards": "shards"}}))


def opened(config, tmp_path, extend=0, data=DATA):
    """Open the sweep, take up what is missing and write it, as a launch does."""
    folder = tmp_path / "s"
    folder.mkdir(parents=True, exist_ok=True)
    record, config = open_record(config, folder, data, extend)
    for planned in missing(config, record):
        name = f"trial-{len(record.trials):03d}"
        record.trials.append(Trial(name, planned.overrides, str(folder / name), case=planned.case))
    record.write(folder)
    return record


def values(record):
    return [trial.overrides[WEIGHT] for trial in record.trials]


def test_extending_adds_the_next_draws_and_changes_none(tmp_path):
    config = settings(tmp_path)
    first = opened(config, tmp_path)
    first.trials[1].status = "done"
    first.write(tmp_path / "s")
    more = opened(config, tmp_path, extend=2)
    assert values(more)[:3] == values(first)
    assert values(more) == values(opened(settings(tmp_path / "fresh", trials=5), tmp_path / "fresh"))
    assert more.trials[1].status == "done"
    assert [trial.name for trial in more.trials] == [f"trial-00{n}" for n in range(5)]


def test_the_first_command_goes_on_with_an_extended_sweep_and_so_does_its_record(tmp_path):
    config = settings(tmp_path)
    opened(config, tmp_path)
    extended = opened(config, tmp_path, extend=2)
    assert values(opened(config, tmp_path)) == values(extended)
    assert values(opened(SweepRecord.read(tmp_path / "s").settings(), tmp_path)) == values(extended)
    assert len(opened(config, tmp_path, extend=1).trials) == 6


def test_seeds_and_cases_of_further_samples_come_with_them(tmp_path):
    config = settings(tmp_path, cases={"plain": {}, "long": {"train.epochs": 9}}, seeds=[0, 1])
    assert len(opened(config, tmp_path).trials) == 12
    assert len(opened(config, tmp_path, extend=1).trials) == 16


def test_a_grid_has_nothing_to_extend_by(tmp_path):
    config = settings(tmp_path, {"grid": [0.1, 0.2]})
    opened(config, tmp_path)
    with pytest.raises(ConfigError, match="has no more trials to add"):
        opened(config, tmp_path, extend=2)


def test_extending_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing to extend"):
        opened(settings(tmp_path), tmp_path, extend=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train.epochs": 99}, r"holds another sweep \(train\.epochs differ\)"),
        ({"sweep.seed": 5}, r"holds another sweep \(sweep\.seed differ\)"),
        ({"sweep.trials": 8}, r"has sweep\.trials 3, not 8; gare sweep --resume s --extend N"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, change, says):
    config = settings(tmp_path)
    opened(config, tmp_path)
    with pytest.raises(ConfigError, match=says):
        opened(with_overrides(config, change), tmp_path)


def test_other_shards_are_refused_and_the_same_ones_elsewhere_are_not(tmp_path, capsys):
    config = settings(tmp_path)
    opened(config, tmp_path)
    moved = with_overrides(config, {"runtime.shards": "/moved"})
    with pytest.raises(ConfigError, match=r"read other shards \(dataset d1, not d2\)"):
        opened(moved, tmp_path, data=DATA | {"dataset_digest": "d2"})
    assert opened(moved, tmp_path).config["runtime"]["shards"] == "/moved"
    assert "The same shards as before, now at /moved" in capsys.readouterr().err


def test_trials_that_were_computed_otherwise_are_not_mixed_with_new_ones(tmp_path):
    config = with_overrides(settings(tmp_path), {"data.augment": "rand"})
    record = opened(config, tmp_path)
    for trial in record.trials:
        trial.status = "done"
        Path(trial.directory).mkdir()
        write_state(Path(trial.directory), RunState("", "", objective=1))
    record.write(tmp_path / "s")
    assert len(opened(config, tmp_path).trials) == 3  # nothing is left to train
    with pytest.raises(ConfigError, match=r"trial-000 of the sweep began when data\.augment rand"):
        opened(config, tmp_path, extend=1)


def test_how_many_run_at_a_time_may_change(tmp_path):
    opened(settings(tmp_path), tmp_path)
    assert len(opened(settings(tmp_path, max_concurrent=1), tmp_path).trials) == 3


def test_a_training_run_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "run.json").touch()
    with pytest.raises(InputError, match="holds a training run"):
        opened(settings(tmp_path), tmp_path)

"""``protocol.dev``: what is trained on, which checkpoint counts, and what says so afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from gare.cli import main
from gare.common.errors import ConfigError, InputError
from gare.config.tree import to_yaml, with_overrides
from gare.data.samples import trained_on
from gare.data.shards import ShardSet
from gare.launch.local import fit_local
from gare.model import load_model
from gare.objective import SINGLE
from gare.runs.inputs import open_data
from gare.runs.run import Run
from gare.runs.state import read_state, resolve_checkpoint
from gare.schema import TAKEN_FROM
from gare.training.loop import train

NONE = "protocol.dev=none"


def rewritten(shards, folder, change):
    """A copy of a shard folder with every row changed by ``change``."""
    shutil.copytree(shards, folder)
    for path in (folder / "shards").glob("*.arrow"):
        table = pa.ipc.open_file(path).read_all()
        rows = [change(row) for row in table.to_pylist()]
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    return folder


def taken(row):
    """dev0, dev1 and dev2 were carved out of train, the others came as dev."""
    if row["video_id"] in {"dev0", "dev1", "dev2"}:
        row["attributes"] = [*row["attributes"], (TAKEN_FROM, "train")]
    return row


@pytest.fixture(scope="module")
def carved(toy_shards, tmp_path_factory):
    return rewritten(toy_shards, tmp_path_factory.mktemp("carved") / "shards", taken)


@pytest.fixture
def run(toy_run, carved):
    return lambda *overrides, **more: toy_run(f"runtime.shards={carved}", *overrides, **more)


def fit(config):
    return fit_local(config, quiet=True)


def history(summary):
    return [json.loads(line) for line in (Path(summary.directory) / "history.jsonl").read_text().splitlines()]


def losses(summary):
    return [row["train/loss"] for row in history(summary) if "train/loss" in row]


def test_held_out_trains_on_nothing_of_dev(run):
    data = open_data(run())
    assert {video.video_id for video in data.train.videos} == {f"train{n}" for n in range(18)}
    assert {video.video_id for video in data.dev.videos} == {f"dev{n}" for n in range(5)}


def test_none_trains_on_what_dev_had_taken_from_train_and_on_nothing_else_of_it(run):
    data = open_data(run(NONE))
    ids = [video.video_id for video in data.train.videos]
    assert data.dev is None
    assert set(ids) == {f"train{n}" for n in range(18)} | {"dev0", "dev1", "dev2"}
    everything = [row["video_id"] for table in data.shards._tables for row in table.select(["video_id"]).to_pylist()]
    assert ids == [video_id for video_id in everything if video_id in ids]
    assert data.steps == 2 * (21 * 2 // 4)


def test_none_is_the_run_as_if_dev_had_never_been_taken(run, carved, tmp_path):
    def undo(row):
        return row | {"split": "train" if (TAKEN_FROM, "train") in row["attributes"] else row["split"]}

    whole = rewritten(carved, tmp_path / "whole", undo)
    assert losses(fit(run(NONE, output="a"))) == losses(fit(run(f"runtime.shards={whole}", output="b")))


def test_none_keeps_the_last_epoch_and_evaluates_nothing(run):
    summary = fit(run(NONE, "train.epochs=3"))
    state = read_state(Path(summary.directory))
    assert summary.selected_by == state.selected_by == "last epoch"
    assert summary.best_metrics == state.best_metrics == {}
    assert state.best == state.last == "epoch-0003"
    assert [p.name for p in (Path(summary.directory) / "checkpoints").iterdir()] == ["epoch-0003"]
    assert resolve_checkpoint(summary.directory) == Path(summary.best)
    assert not [name for row in history(summary) for name in row if name.startswith("dev/")]
    assert [row["epoch"] for row in history(summary) if "epoch" in row] == [1, 2, 3]


def test_held_out_says_what_chose_the_checkpoint(run):
    assert fit(run("train.epochs=1", "train.select_by=v2t/R@5")).selected_by == "dev v2t/R@5"


def test_a_run_without_dev_goes_on_as_if_uninterrupted(run):
    whole = fit(run(NONE, output="whole"))

    class Killed(Exception):  # noqa: N818
        pass

    def kill(report):
        if report["epoch"] == 1:
            raise Killed

    config = run(NONE, output="parts")
    with pytest.raises(Killed):
        train(Run.open(config), SINGLE, kill)
    resumed = train(Run.open(config), SINGLE, lambda _: None)
    assert resumed.resumed_from == 1
    assert losses(resumed) == losses(whole)
    a, b = (load_model(Path(s.best)).state_dict() for s in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = fit(config)
    assert again.already_finished
    assert again.selected_by == "last epoch"


def test_the_two_are_different_experiments(run):
    fit(run("train.epochs=1"))
    with pytest.raises(ConfigError, match=r"holds another experiment \(protocol.dev differ\)"):
        fit(run("train.epochs=1", NONE))


def test_none_needs_no_dev_split(toy_run):
    assert open_data(toy_run(NONE, "data.dev_split=val")).dev is None


def test_afterwards_it_is_known_how_much_of_a_split_was_trained_on(run, carved):
    shards = ShardSet(carved)
    counts = {
        dev: [trained_on(run(f"protocol.dev={dev}"), shards.split(name)) for name in ("train", "dev", "test")]
        for dev in ("held_out", "none")
    }
    assert counts == {"held_out": [18, 0, 0], "none": [18, 3, 0]}


def test_what_was_taken_from_another_split_than_the_one_trained_on_stays_out(run, carved):
    config = run(NONE, "data.train_split=test", "protocol.test=used")
    assert trained_on(config, ShardSet(carved).split("dev")) == 0


def test_a_video_that_is_there_twice_is_refused(run, carved, tmp_path):
    def doubled(row):
        return row | {"video_id": "train0" if row["video_id"] == "dev4" else row["video_id"]}

    shards = rewritten(carved, tmp_path / "twice", doubled)
    with pytest.raises(InputError, match="holds the video 'train0' more than once"):
        fit(run(f"runtime.shards={shards}"))


def test_the_tracker_is_told_what_chose_the_checkpoint(run):
    from mlflow import MlflowClient

    from gare.launch.tracked import tracked
    from gare.tracking import read_handle

    config = run(NONE, "train.epochs=1", "runtime.tracking=true")
    summary = tracked(Run.open(config), fit_local)
    handle = read_handle(Path(summary.directory))
    recorded = MlflowClient(handle.uri).get_run(handle.run_id)
    assert recorded.data.tags["gare.selected_by"] == "last epoch"
    assert not [name for name in recorded.data.metrics if "dev" in name]
    assert "train/loss" in recorded.data.metrics


def test_a_sweep_without_dev_is_refused_before_anything_starts(run):
    from tune.comparison import check_metric
    from tune.space import expand

    with pytest.raises(ConfigError, match=r"a sweep compares its trials on dev; set protocol.dev: held_out"):
        check_metric(run(NONE))
    swept = with_overrides(run(), {"sweep.space": {"protocol.dev": {"grid": ["held_out", "none"]}}})
    with pytest.raises(ConfigError, match=r"protocol.dev cannot be swept: protocol.\* decides what trials"):
        expand(swept)


def test_an_epoch_without_dev_is_shown_as_one(run, capsys):
    fit_local(run(NONE, "train.epochs=1"))
    assert "epoch 1: no dev split" in capsys.readouterr().err


def test_the_command_says_which_checkpoint_it_leaves(run, tmp_path, capfd):
    said = {}
    for dev in ("held_out", "none"):
        settings = tmp_path / f"{dev}.yaml"
        settings.write_text(to_yaml(run("train.epochs=1", f"protocol.dev={dev}", output=dev)))
        with pytest.raises(SystemExit) as ended:
            main(["train", str(settings), "--local"])
        assert ended.value.code == 0
        said[dev] = capfd.readouterr()
    assert "Best checkpoint, by dev t2v/R@1:" in said["held_out"].out
    assert "Last epoch's checkpoint:" in said["none"].err
    assert "R@1" not in said["none"].out + said["none"].err

"""What a run says of data that cannot do what it is for, and of a recipe that changed under it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gare.cli import main
from gare.common.errors import ConfigError
from gare.config.tree import build, to_yaml
from gare.data.shards import ShardSet
from gare.launch.dry_run.plan import make_plan
from gare.launch.local import fit_local
from gare.objective import SINGLE
from gare.runs.inputs import open_data
from gare.runs.layout import absolute
from gare.runs.run import Run, outdated
from gare.runs.state import RunState, read_state, write_state
from gare.training.loop import build_model, train
from tests import toy

CANNOT = "The split 'dev' has one video, which every checkpoint finds: it cannot choose one"


@pytest.fixture(scope="module")
def one_dev_video(tmp_path_factory):
    return toy.make_shards(tmp_path_factory.mktemp("one") / "shards", {"train": 10, "dev": 1})


def test_a_dev_split_of_one_video_says_that_it_cannot_choose(toy_run, one_dev_video, tmp_path, capfd):
    config = toy_run(f"runtime.shards={one_dev_video}", "train.epochs=1")
    (said,) = open_data(config).remarks(config)
    assert said.startswith(CANNOT)
    assert said in make_plan(config).remarks
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "config.yaml"), "--local"])
    assert ended.value.code == 0
    assert CANNOT in " ".join(capfd.readouterr().err.split())
    rows = [json.loads(line) for line in next((tmp_path / "runs").glob("*/history.jsonl")).read_text().splitlines()]
    assert not [row for row in rows if "warning" in row]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_temporal_transformer_that_starts_at_random_is_told_of(toy_run, toy_shards, capfd, layers):
    build_model(toy_run(f"model.temporal_layers={layers}"), ShardSet(toy_shards), torch.device("cpu"))
    heard = " ".join(capfd.readouterr().err.split())
    assert ("its blocks start at random" in heard) == (layers == 2)  # the toy CLIP has one text layer to copy


@pytest.mark.parametrize("changes", [(), ("protocol.dev=none",)])
def test_without_that_nothing_is_said(toy_run, one_dev_video, changes):
    config = toy_run(*changes, *([f"runtime.shards={one_dev_video}"] if changes else []))
    assert open_data(config).remarks(config) == []


class Killed(Exception):  # noqa: N818
    pass


def half_a_run(config):
    """A run killed after its first epoch, as it was left by what had the other form of the loss."""

    def kill(report):
        raise Killed

    with pytest.raises(Killed):
        train(Run.open(config), SINGLE, kill)
    folder = Path(absolute(config).runtime.output) / config.run_name()
    state = read_state(folder)
    assert state.objective == 2
    write_state(folder, replace(state, objective=1))
    return config


def test_a_run_begun_with_another_form_of_the_loss_is_not_gone_on_with(toy_run):
    config = half_a_run(toy_run("train.increments=factorised"))
    with pytest.raises(ConfigError, match=r"Start again under another runtime\.name"):
        fit_local(config, quiet=True)


def test_a_finished_run_with_another_form_of_the_loss_is_not_extended_and_stays_finished(toy_run):
    config = toy_run("train.increments=factorised", "train.epochs=1")
    folder = Path(fit_local(config, quiet=True).directory)
    write_state(folder, replace(read_state(folder), objective=1))
    before = (folder / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=r"began when objective\.information_bottleneck"):
        Run.open(config).extend(2)
    assert (folder / "run.json").read_bytes() == before
    assert fit_local(config, quiet=True).already_finished


def test_a_run_begun_with_other_augmentation_is_told_apart():
    rand, none = (build({"data": {"augment": name}}) for name in ("rand", "none"))
    assert "data.augment rand" in str(outdated(rand, RunState("", "", objective=1)))
    assert outdated(rand, RunState("", "", objective=2)) is None
    assert outdated(none, RunState("", "", objective=1)) is None


@pytest.mark.parametrize(
    "same", ["train.increments=dense", "model.dropout=0", "objective.information_bottleneck.anchor=text"]
)
def test_a_run_whose_loss_is_what_it_was_goes_on(toy_run, same):
    assert fit_local(half_a_run(toy_run("train.increments=factorised", same)), quiet=True).resumed_from == 1

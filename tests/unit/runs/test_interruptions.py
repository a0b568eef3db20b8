"""A run that was interrupted anywhere and goes on is the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gare.launch.local import fit_local
from gare.model import load_model
from gare.objective import SINGLE
from gare.runs import checkpoints
from gare.runs.run import Run
from gare.runs.state import read_state
from gare.training import loop
from gare.training.loop import train

RUN = ("train.epochs=2", "runtime.checkpoint_every_steps=3")


class Killed(BaseException):
    pass


def fit(config):
    return fit_local(config, quiet=True)


def losses(folder):
    rows = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
    return [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]


def same_runs(first, second):
    assert losses(first.directory) == losses(second.directory)
    assert first.best_metrics == second.best_metrics
    for name in {read_state(Path(first.directory)).last, Path(first.best).name}:
        a, b = (load_model(Path(run.directory) / "checkpoints" / name).state_dict() for run in (first, second))
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(toy_clip, toy_shards, tmp_path_factory):
    from tests import toy

    return fit(toy.toy_config(toy_clip, toy_shards, tmp_path_factory.mktemp("whole"), *RUN))


def interrupt_before(monkeypatch, step):
    """Make the training step with this number (from 0) end the run instead."""
    true_step = loop.train_step

    def train_step(*arguments, **more):
        if arguments[5] == step:
            raise Killed
        return true_step(*arguments, **more)

    monkeypatch.setattr(loop, "train_step", train_step)


@pytest.mark.parametrize(
    ("step", "goes_on_after"),
    [(2, None), (3, (0, 3)), (8, (0, 6)), (9, (1, 9)), (14, (1, 12))],
    ids=["before_the_first_checkpoint", "at_a_checkpoint", "in_an_epoch", "at_an_epochs_end", "in_a_later_epoch"],
)
def test_a_run_that_died(toy_run, whole, monkeypatch, step, goes_on_after):
    config = toy_run(*RUN)
    with monkeypatch.context() as patch:
        interrupt_before(patch, step)
        with pytest.raises(Killed):
            fit(config)
    torch.rand(7)  # what the process drew elsewhere does not matter
    again = fit(config)
    assert (again.resumed_from, again.resumed_step) == (goes_on_after or (None, None))
    same_runs(again, whole)


def test_a_run_that_died_again_and_again(toy_run, whole, monkeypatch):
    config = toy_run(*RUN)
    for step in (4, 7, 7, 13):
        with monkeypatch.context() as patch:
            interrupt_before(patch, step)
            with pytest.raises(Killed):
                fit(config)
    same_runs(fit(config), whole)


def test_a_run_that_died_in_the_evaluation_of_an_epoch(toy_run, whole, monkeypatch):
    config = toy_run(*RUN)

    def evaluate(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", evaluate)
        with pytest.raises(Killed):
            fit(config)
    again = fit(config)
    assert (again.resumed_from, again.resumed_step) == (0, 6)
    same_runs(again, whole)


def test_how_often_checkpoints_are_made_changes_nothing_and_may_change_on_resume(toy_run, whole, monkeypatch):
    often = toy_run("train.epochs=2", "runtime.checkpoint_every_steps=1")
    with monkeypatch.context() as patch:
        interrupt_before(patch, 5)
        with pytest.raises(Killed):
            fit(often)
    seldom = fit(toy_run("train.epochs=2", "runtime.read_ahead=0"))
    assert seldom.resumed_step == 5
    same_runs(seldom, whole)


@pytest.mark.parametrize("setting", ["train.optimizer=bert_adam", "train.ema=0.9", "train.precision=fp16"])
def test_whatever_has_a_state_goes_on_in_the_middle_of_an_epoch(toy_run, monkeypatch, setting):
    settings = (*RUN, setting)
    once = fit(toy_run(*settings, output="once"))
    config = toy_run(*settings, output="twice")
    with monkeypatch.context() as patch:
        interrupt_before(patch, 5)
        with pytest.raises(Killed):
            fit(config)
    same_runs(fit(config), once)


KILLED_WHILE_WRITING = """
import os, pathlib, signal, sys
from gare.config.tree import load_config
from gare.launch.local import fit_local

replace = pathlib.Path.replace

def kill_at(self, target):
    if pathlib.Path(target).name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

pathlib.Path.replace = kill_at
fit_local(load_config(sys.argv[1]), quiet=True)
"""


def test_process_killed_between_writing_a_checkpoint_and_its_rename(toy_run, whole, tmp_path):
    from gare.config.tree import to_yaml

    config = toy_run(*RUN)
    settings = tmp_path / "settings.yaml"
    settings.write_text(to_yaml(config))
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(settings), "step-00000006"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    folder = tmp_path / "runs" / "toy"
    state = read_state(folder)
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    assert (state.last, state.epoch, state.batch) == ("step-00000003", 0, 3)
    assert any(name.startswith(".step-00000006.") for name in left)
    assert "step-00000006" not in left
    again = fit(config)
    assert again.resumed_step == 3
    assert not [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]
    same_runs(again, whole)


def test_a_run_killed_between_a_checkpoint_and_the_record_of_it(toy_run, whole, monkeypatch):
    true_write = checkpoints.write_state

    def write_state(folder, state):
        if state.step == 6:
            raise Killed
        true_write(folder, state)

    config = toy_run(*RUN)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_state", write_state)
        with pytest.raises(Killed):
            fit(config)
    folder = Path(config.runtime.output) / "toy"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-00000003", "step-00000006"}
    again = fit(config)
    assert again.resumed_step == 3
    same_runs(again, whole)


def test_a_finished_run_says_so_and_writes_nothing(toy_run):
    config = toy_run("train.epochs=1")
    first = fit(config)
    before = {path: path.stat().st_mtime_ns for path in Path(first.directory).rglob("*")}
    again = train(Run.open(config), SINGLE, lambda _: pytest.fail("it reported"))
    assert again.already_finished
    assert before == {path: path.stat().st_mtime_ns for path in Path(first.directory).rglob("*")}

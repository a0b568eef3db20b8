"""A signal at any stage ends a command with its code and one sentence, and the same command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import click
import pyarrow as pa
import pytest

from gare.common.signals import Stopped, held, stopping
from gare.config.tree import to_yaml
from gare.evaluation import measure
from gare.launch.local import fit_local
from gare.model.checkpoint import load_model
from gare.retrieval import units as index_units
from gare.runs import checkpoints
from gare.runs.state import read_state
from gare.schema import MANIFEST
from gare.training import loop
from gare.training.observe import Observer
from pipelines.manifest.rows import write_manifest
from pipelines.prepare import local_units
from tests.prepared import make_sources
from tests.processes import decoders_below

SIGNALS = [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 1)]


@pytest.fixture(autouse=True)
def handlers():
    """Give signals the handlers of a terminal: nohup ignores SIGHUP, and a test may have left others."""
    usual = {
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def place(tmp_path_factory, toy_clip, toy_shards):
    """A trained run, and a manifest of a few videos."""
    from tests import toy

    folder = tmp_path_factory.mktemp("place")
    config = toy.toy_config(toy_clip, toy_shards, folder / "runs", "train.epochs=1")
    fit_local(config, quiet=True)
    (folder / "toy.yaml").write_text(to_yaml(config))
    videos = make_sources(folder / "videos")
    rows = [{"video_id": n, "uri": f"{videos}/{n}.mp4", "split": "train", "captions": [n]} for n in "abc"]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), folder / "m.parquet")
    return folder


def told(number, times, decoders=False):
    """In place of some function: as if the signal came there, and once more while the command ends.

    ``decoders``: they are at work by then.
    """

    def function(*_, **__):
        while decoders and not decoders_below(os.getpid()):
            time.sleep(0.01)
        try:
            signal.raise_signal(number)
        finally:
            if times == 2:
                signal.raise_signal(number)

    return function


STAGES = {
    "prepare": (local_units, "in_order", ("prepare", "m.parquet", "--local")),
    "train": (Observer, "before_step", ("train", "toy.yaml", "--local")),
    "evaluate": (measure, "count_views", ("evaluate", "runs/toy", "--resamples", 0)),
    "index": (index_units, "encode_twice", ("index", "runs/toy")),
}


@pytest.mark.parametrize(("number", "times"), SIGNALS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_ends_a_command_and_the_same_one_goes_on(
    place, toy_shards, tmp_path, monkeypatch, call, stage, number, times
):
    where, name, command = STAGES[stage]
    monkeypatch.chdir(place)
    sizes = [word for size in ("short_side=32", "crop=32") for word in ("--set", f"prepare.{size}")]
    more = {
        "prepare": ("--out", tmp_path / "out", *sizes),
        "train": ("--set", f"runtime.output={tmp_path}"),
    }.get(stage, ("--shards", toy_shards, "--out", tmp_path / "out"))
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    threads, before = threading.active_count(), decoders_below(os.getpid())
    with monkeypatch.context() as patch:
        patch.setattr(where, name, told(number, times, decoders=stage == "prepare"))
        code, said = call(*command, *more)
    how = "Interrupted" if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}"
    assert (code, said[-1]) == (128 + number, f"error: {how}; the same command continues where it can.")
    assert any("a third signal ends at once" in line for line in said) == (times == 2)
    assert [path for path in tmp_path.rglob("*") if re.search(r"\.(tmp|old)$", path.name)] == []
    assert decoders_below(os.getpid()) == before
    assert threading.active_count() <= threads + 1  # a pool of matplotlib or Arrow may stay
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    if times == 1:
        assert call(*command, *more)[0] == 0


def test_a_signal_while_a_checkpoint_is_written_leaves_the_former_one_whole(place, tmp_path, monkeypatch, call):
    command = ("train", place / "toy.yaml", "--local", "--set", f"runtime.output={tmp_path}")
    command += ("--set", "runtime.checkpoint_every_steps=3")
    true_save, saves = checkpoints.save_model, []

    def save(model, config, folder, weights):
        true_save(model, config, folder, weights)
        saves.append(folder)
        if len(saves) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # the command is ending by now
            raise OSError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_model", save)
        assert call(*command)[0] == 143
    assert read_state(tmp_path / "toy").last == "step-00000003"
    load_model(tmp_path / "toy/checkpoints/step-00000003")
    assert sorted(path.name for path in (tmp_path / "toy/checkpoints").iterdir()) == ["step-00000003"]
    assert call(*command)[0] == 0
    a, b = (load_model(folder / "toy/checkpoints/epoch-0001").state_dict() for folder in (tmp_path, place / "runs"))
    assert all(a[name].equal(b[name]) for name in a)


def test_a_signal_held_back_ends_the_command_also_if_the_block_fails():
    seen = []

    def fail():
        with held(signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
            raise OSError("the disk went away")

    def command():
        try:
            fail()
        except BaseException as error:
            seen.append(type(error))
            raise

    with pytest.raises(Stopped), stopping():
        command()
    assert seen == [OSError]  # what makes a checkpoint at Stopped sees the error


def test_a_third_signal_ends_at_once_and_one_that_is_ignored_stays_so(tmp_path):
    program = (
        "import signal, sys, time\n"
        "from gare.common.signals import stopping\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with stopping():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('ending', flush=True)\n"
        "        while True: time.sleep(1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == b"ending\n"
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert process.wait() == -signal.SIGTERM
    process.stdout.close()


@pytest.mark.parametrize("when", ["in a step", "in the evaluation", "at an epoch's end"])
def test_sigterm_while_training_makes_a_checkpoint_of_the_last_step(place, tmp_path, monkeypatch, call, when):
    command = ("train", place / "toy.yaml", "--local", "--set", f"runtime.output={tmp_path}")
    steps = {"in a step": 3, "in the evaluation": 9, "at an epoch's end": 9}[when]
    where, name, turn = {
        "in a step": (loop, "train_step", 3),
        "in the evaluation": (loop, "evaluate", 1),
        "at an epoch's end": (Observer, "after_epoch", 1),
    }[when]
    true, turns = getattr(where, name), []

    def noticed(*given, **named):
        turns.append(1)
        if len(turns) == turn:
            signal.raise_signal(signal.SIGTERM)
        return true(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, noticed)
        assert call(*command)[0] == 143
    state = read_state(tmp_path / "toy")
    assert (state.step, state.epoch) == (steps, 1 if when == "at an epoch's end" else 0)
    assert state.last == ("epoch-0001" if when == "at an epoch's end" else f"step-{steps:08d}")
    assert call(*command)[0] == 0
    a, b = (load_model(folder / "toy/checkpoints/epoch-0001").state_dict() for folder in (tmp_path, place / "runs"))
    assert all(a[name].equal(b[name]) for name in a)
    assert read_state(tmp_path / "toy").best_metrics == read_state(place / "runs/toy").best_metrics


class Dropped:
    """What is raised in its end, Python drops."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_whose_exception_was_dropped_ends_the_command_at_the_next(monkeypatch):
    def work():
        Dropped()
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it goes on")

    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    with pytest.raises(Stopped), stopping():
        work()


def test_an_exit_that_a_library_makes_of_a_signal_is_still_the_signals():
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise SystemExit(0) from None

    with pytest.raises(Stopped), stopping():
        work()


def test_ctrl_c_before_a_command_runs_is_a_sentence(monkeypatch, call):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Group, "invoke", interrupted)
    code, said = call("config")
    assert (code, len(said)) == (130, 1)

"""Which checkpoints a run keeps, and what happens when one cannot be written."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gare.common.errors import InputError, StorageError
from gare.launch.local import fit_local
from gare.model import load_model
from gare.model.pixels import OPENAI_PIXELS
from gare.objective import SINGLE
from gare.runs import checkpoints as checkpoints_module
from gare.runs.checkpoints import TRAINER_FILE, Checkpoints, Parts, rank, remove_stale_checkpoints, restore
from gare.runs.layout import CHECKPOINT_FILE, run_directory
from gare.runs.run import Run
from gare.runs.state import RunState, read_state, write_state
from gare.training import loop


def fit(config):
    return fit_local(config, quiet=True)


def on_disk(folder):
    return {path.name for path in (Path(folder) / "checkpoints").iterdir()}


def ranked(values, config):
    """The best checkpoint and those kept after epochs with these dev values."""
    state = RunState("", "")
    for epoch, value in enumerate(values, 1):
        rank(state, f"epoch-{epoch:04d}", {"dev/t2v/R@1": value}, config)
    return state


def test_the_best_k_are_kept_best_first_and_of_equal_ones_the_first(toy_run):
    state = ranked([1.0, 3.0, 2.0, 3.0, 0.5], toy_run("runtime.keep_best=3"))
    assert list(state.kept) == ["epoch-0002", "epoch-0004", "epoch-0003"]
    assert (state.best, state.best_metrics) == ("epoch-0002", {"dev/t2v/R@1": 3.0})


def test_a_step_does_not_wait_for_a_write_and_raises_the_error_of_one_that_ended(toy_run, monkeypatch):
    go_on, ended = threading.Event(), []

    def write_checkpoint(*_):
        ended.append(go_on.wait(10))
        raise InputError("The disk is full.")

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", write_checkpoint)
    parts = Parts(torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], 1.0), {})
    checkpoints = Checkpoints(Run.open(toy_run("train.epochs=9")), SINGLE, parts, None)
    checkpoints.after_epoch(RunState("", "", epoch=1), 0.0, {})
    checkpoints.after_step(RunState("", "", epoch=1, step=1, batch=1), 0.0, 4)
    assert ended == []
    go_on.set()
    while not checkpoints._writing.done():
        time.sleep(0.01)
    with checkpoints, pytest.raises(InputError, match=r"The disk is full.*There is none before it"):
        checkpoints.after_step(RunState("", "", epoch=1, step=2, batch=2), 0.0, 4)
    assert ended == [True]


def test_fewer_may_be_kept_on_resume_and_a_record_of_the_best_alone_is_understood(toy_run):
    state = ranked([1.0, 3.0, 2.0], toy_run("runtime.keep_best=3"))
    rank(state, "epoch-0004", {"dev/t2v/R@1": 0.0}, toy_run())
    assert list(state.kept) == ["epoch-0002"]
    old = RunState("", "", best="epoch-0001", best_metrics={"dev/t2v/R@1": 5.0})
    rank(old, "epoch-0002", {"dev/t2v/R@1": 4.0}, toy_run("runtime.keep_best=2"))
    assert (old.best, list(old.kept)) == ("epoch-0001", ["epoch-0001", "epoch-0002"])


def test_a_run_keeps_its_best_k_and_its_last(toy_run):
    summary = fit(toy_run("train.epochs=5", "runtime.keep_best=2", "runtime.checkpoint_every_steps=2"))
    state = read_state(Path(summary.directory))
    assert len(state.kept) == 2
    assert on_disk(summary.directory) == {*state.kept, state.last}
    for name, value in state.kept.items():
        made = json.loads((Path(summary.directory) / "checkpoints" / name / CHECKPOINT_FILE).read_text())
        assert made["metrics"]["dev/t2v/R@1"] == value
    assert max(state.kept.values()) == summary.best_metrics["dev/t2v/R@1"]


def test_sweeping_removes_what_a_killed_writer_left_and_nothing_of_others(tmp_path):
    folder = tmp_path / "checkpoints"
    kept, foreign = ("epoch-0001", "step-00000007"), ("mine", "epoch-0001-copy")
    for name in (*kept, *foreign, "epoch-0002", "step-00000003", ".epoch-0003.x1.tmp", ".epoch-0003.x2.old"):
        (folder / name).mkdir(parents=True)
    (tmp_path / ".run.json.abc.tmp").write_text("{")
    remove_stale_checkpoints(tmp_path, RunState("", "", last="step-00000007", best="epoch-0001"))
    assert on_disk(tmp_path) == {*kept, *foreign}
    assert not list(tmp_path.glob("*.tmp"))


@pytest.fixture
def running(toy_run, toy_clip):
    """A model that trains, its settings and its run's folder."""
    from gare.model import GareModel
    from gare.training.optimiser import make_optimiser

    config = toy_run()
    model = GareModel.from_clip(config.model.clip, config.model)
    folder = run_directory(config)
    folder.mkdir(parents=True)
    return config, Parts(model, make_optimiser(model, config.train), {}), folder


def test_a_checkpoint_holds_the_moment_it_was_made_though_training_went_on(running, monkeypatch):
    config, parts, folder = running
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    go_on, true_write = threading.Event(), checkpoints_module.write_checkpoint

    def slow(*arguments):
        assert go_on.wait(30)
        true_write(*arguments)

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", slow)
    state = RunState("c", "d", epoch=1, step=9)
    write_state(folder, RunState("c", "d"))
    with Checkpoints(Run.open(config), SINGLE, parts, None) as checkpoints:
        checkpoints.after_epoch(state, 1.0, {"dev/t2v/R@1": 1.0})
        with torch.no_grad():
            parts.model.head.psi.mean_proj.bias += 1
        state.step = 10
        assert read_state(folder).last is None  # it is not claimed before it is there
        go_on.set()
    assert (read_state(folder).last, read_state(folder).step) == ("epoch-0001", 9)
    stored = load_model(folder / "checkpoints" / "epoch-0001").state_dict()
    assert all(torch.equal(stored[name], value) for name, value in before.items())
    assert torch.load(folder / "checkpoints" / "epoch-0001" / TRAINER_FILE, weights_only=True)["step"] == 9


def test_at_most_one_checkpoint_is_being_written(running, monkeypatch):
    config, parts, folder = running
    at_work, most = [0], [0]
    true_write = checkpoints_module.write_checkpoint

    def counted(*arguments):
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        true_write(*arguments)
        at_work[0] -= 1

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", counted)
    with Checkpoints(Run.open(config), SINGLE, parts, None) as checkpoints:
        for epoch in (1, 2, 3):
            state = RunState("c", "d", epoch=epoch, step=epoch)
            checkpoints.after_epoch(state, 1.0, {"dev/t2v/R@1": 1.0})
    assert most == [1]
    assert read_state(folder).last == "epoch-0003"


@contextmanager
def no_room_for(size):
    """Files of this process cannot grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_disk(monkeypatch):
    """Every sync of what belongs to the next checkpoint says that the disk is full."""
    true_sync = os.fsync

    def fsync(handle):
        if "step-00000008" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true_sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("how", ["weights", "optimiser", "sync"])
def test_disk_full_is_one_sentence_and_the_same_command_goes_on(toy_run, monkeypatch, how):
    settings = ("train.epochs=2", "runtime.log_every=100")
    whole = fit(toy_run(*settings, output="whole"))
    weights = (Path(whole.best) / "model.safetensors").stat().st_size
    config = toy_run(*settings, "runtime.checkpoint_every_steps=4")
    folder, true_step = run_directory(config), loop.train_step

    with monkeypatch.context() as patch, ExitStack() as filled:

        def fills_up(*arguments, **more):
            if arguments[5] == 5:
                while read_state(folder).last is None:
                    time.sleep(0.01)
                if how == "sync":
                    full_disk(patch)
                else:
                    filled.enter_context(no_room_for(weights // 2 if how == "weights" else int(weights * 1.2)))
            return true_step(*arguments, **more)

        patch.setattr(loop, "train_step", fills_up)
        with pytest.raises(InputError) as caught:
            fit(config)
    reason = "No space left on device" if how == "sync" else "File too large"
    assert re.fullmatch(
        rf"Cannot write \S+step-00000008\S*: {reason}\. The checkpoint before it \(step-00000004\) is complete; when "
        r"there is room, the same command continues\.",
        str(caught.value),
    )
    assert read_state(folder).last == "step-00000004"
    assert on_disk(folder) == {"step-00000004"}
    again = fit(config)
    assert again.resumed_step == 4
    a, b = (load_model(summary.best).state_dict() for summary in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_error_of_writing_is_raised_at_the_next_step_and_not_hours_later(toy_run, monkeypatch):
    failed, steps = threading.Event(), []
    true_step = loop.train_step

    def cannot(*_):
        failed.set()
        raise InputError("Cannot write it.")

    def counted(*arguments, **more):
        steps.append(arguments[5])
        if len(steps) == 3:  # after the first checkpoint
            assert failed.wait(30)
        return true_step(*arguments, **more)

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", cannot)
    monkeypatch.setattr(loop, "train_step", counted)
    with pytest.raises(InputError, match=r"^Cannot write it\. There is none before it; when there is room"):
        fit(toy_run("train.epochs=9", "runtime.checkpoint_every_steps=2"))
    assert len(steps) < 9


def test_what_ended_the_run_comes_before_an_error_of_writing(running, monkeypatch, capsys):
    config, parts, _ = running

    def cannot(*_):
        raise InputError("Cannot write it.")

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", cannot)

    def end():
        with Checkpoints(Run.open(config), SINGLE, parts, None) as checkpoints:
            checkpoints.after_epoch(RunState("c", "d", epoch=1), 0.0, {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end()
    assert "Cannot write it." in capsys.readouterr().err


def test_an_error_of_writing_keeps_its_kind_its_exit_code_and_its_result(running, monkeypatch):
    config, parts, _ = running

    def cannot(*_):
        error = StorageError("Cannot write it.", result={"free": 0})
        error.exit_code = 9
        raise error

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", cannot)
    with (
        pytest.raises(StorageError, match=r"Cannot write it\. There is none before it") as raised,
        Checkpoints(Run.open(config), SINGLE, parts, None) as checkpoints,
    ):
        checkpoints.after_epoch(RunState("c", "d", epoch=1), 0.0, {})
    assert (raised.value.exit_code, raised.value.result) == (9, {"free": 0})


def test_a_checkpoint_of_another_step_than_the_record_says_is_refused(toy_run):
    config = toy_run("train.epochs=1", "runtime.checkpoint_every_steps=4")
    summary = fit(config)
    folder = Path(summary.directory)
    state = read_state(folder)
    state.finished, state.epoch, state.step = False, 0, 7
    write_state(folder, state)
    with pytest.raises(InputError, match=r"trainer\.pt is of step \d+, but the run is at step 7"):
        fit(config)


def test_a_run_from_before_inputs_were_recorded_goes_on_with_the_inputs_it_had(running):
    config, parts, folder = running
    state = RunState("c", "d", epoch=1, step=9)
    with Checkpoints(Run.open(config), SINGLE, parts, None) as checkpoints:
        checkpoints.after_epoch(state, 1.0, {})
    clip = folder / "checkpoints" / "epoch-0001" / "clip"
    (clip / "preprocessor_config.json").unlink()
    settings = json.loads((clip / "tokenizer_config.json").read_text())
    assert settings.pop("text_cleaning") == "openai"
    (clip / "tokenizer_config.json").write_text(json.dumps(settings))
    parts.model.pixel_mean.fill_(0.25)
    restore(folder, read_state(folder), parts)
    assert parts.model.tokenizer.cleaning == "none"
    assert parts.model.pixels == OPENAI_PIXELS
    assert parts.model.pixel_mean.flatten().tolist() == pytest.approx(OPENAI_PIXELS.mean)


def test_whatever_else_has_a_state_is_taken_up_with_model_and_optimiser(running):
    config, parts, folder = running
    extra = torch.nn.Linear(2, 3)
    parts = replace(parts, extras={"average": extra})
    expected = {name: value.clone() for name, value in extra.state_dict().items()}
    state = RunState("c", "d", epoch=1, step=9)
    with Checkpoints(Run.open(config), SINGLE, parts, None) as checkpoints:
        checkpoints.after_epoch(state, 1.0, {})
    with torch.no_grad():
        extra.weight.zero_()
    restore(folder, read_state(folder), parts)
    assert all(torch.equal(expected[name], value) for name, value in extra.state_dict().items())
    with pytest.raises(InputError, match=r"trainer\.pt is damaged or is another model's \(KeyError\)"):
        restore(folder, state, replace(parts, extras={"other": extra}))

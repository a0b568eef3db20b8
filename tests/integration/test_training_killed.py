"""Training killed with SIGKILL, its worker or its driver, and gone on with: the uninterrupted run's weights."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from gare.config.tree import to_yaml
from gare.model import load_model
from gare.runs.state import read_history, read_state
from tests.processes import gare, kill, run, start, training_workers_below, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finding the worker's process needs /proc"),
]
LONG = ("train.epochs=12", "runtime.checkpoint_every_steps=4", "runtime.max_failures=20")
STEPS = 12 * 9


@pytest.fixture
def job(toy_run, tmp_path):
    """Write the settings of a run, and give its command and its folder."""

    def make(name, *overrides, local=False):
        config = toy_run(*LONG, f"runtime.name={name}", *overrides)
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(config))
        return gare("train", path, *(["--local"] if local else [])), Path(config.runtime.output) / name

    return make


def reached(folder):
    """Steps that the run's history tells of."""
    rows = read_history(folder / "history.jsonl")
    return rows[-1]["step"] if rows else 0


def train_with_kills(command, folder, kills):
    """Run a command to its end, killing (who, at which step) on the way; how many kills hit a run at work."""
    hits, process = 0, start(command)
    for who, step in kills:
        if not wait_until(process, lambda step=step: reached(folder) >= step):
            break
        if who == "driver":
            kill(process)
            process = start(command)
        else:
            for worker in training_workers_below(process.pid)[-1:]:
                os.kill(worker, signal.SIGKILL)
        hits += 1
    wait_until(process, lambda: False, 600)
    if process.poll() is None:
        kill(process)
        pytest.fail(f"the run did not end; it is at step {reached(folder)} of {STEPS}")
    assert process.returncode == 0
    return hits


def losses(folder):
    rows = [row for row in read_history(folder / "history.jsonl") if "train/loss" in row]
    return [(row["step"], row["train/loss"]) for row in rows]


def assert_same(folder, whole):
    """The same losses step for step, the same best and last weights, bit for bit."""
    assert losses(folder) == losses(whole)
    ours, theirs = read_state(folder), read_state(whole)
    assert ours.finished
    assert (ours.last, ours.best, ours.best_metrics) == (theirs.last, theirs.best, theirs.best_metrics)
    for name in {ours.last, ours.best}:
        a, b = (load_model(run_folder / "checkpoints" / name).state_dict() for run_folder in (folder, whole))
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_worker_and_driver_killed_once_each(job):
    whole, whole_folder = job("whole", local=True)
    run(whole)
    assert len(losses(whole_folder)) == STEPS
    command, folder = job("killed")
    assert train_with_kills(command, folder, [("worker", 25), ("driver", 60)]) == 2
    assert_same(folder, whole_folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1])
def test_workers_and_driver_killed_at_ten_random_points(job, seed):
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(1, STEPS - 15), 10))
    kills = [(draw.choice(["worker", "driver"]), step) for step in steps]
    whole, whole_folder = job("whole", "runtime.workers=2")
    run(whole)
    command, folder = job("killed", "runtime.workers=2")
    assert train_with_kills(command, folder, kills) == 10, kills
    assert_same(folder, whole_folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_local_run_killed_at_ten_random_points(job):
    whole, whole_folder = job("whole", local=True)
    run(whole)
    steps = sorted(random.Random(2).sample(range(1, STEPS - 15), 10))
    command, folder = job("killed", local=True)
    assert train_with_kills(command, folder, [("driver", step) for step in steps]) == 10
    assert_same(folder, whole_folder)
    assert json.loads((folder / "run.json").read_text())["step"] == STEPS

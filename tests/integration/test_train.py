"""Training on Ray Train workers: the same numbers as without Ray, through failures too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gare.common.errors import GareError, RunError
from gare.common.files import make_folder
from gare.common.nodes import Node
from gare.config.tree import to_yaml
from gare.launch.local import fit_local
from gare.model import load_model
from gare.model.checkpoint import load_checkpoint_config

pytestmark = pytest.mark.ray


def history(summary_or_folder):
    folder = Path(getattr(summary_or_folder, "directory", summary_or_folder))
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def losses(summary):
    return [row["train/loss"] for row in history(summary) if "train/loss" in row]


def fit(config):
    from gare.launch.ray_train import fit as fit_on_ray

    return fit_on_ray(config, quiet=True)


def test_one_ray_worker_and_a_plain_process_give_bit_identical_runs(ray_cluster, toy_run):
    local = fit_local(toy_run(output="local"), quiet=True)
    ray_run = fit(toy_run(output="ray"))
    assert losses(ray_run) == losses(local)
    assert ray_run.best_metrics == local.best_metrics
    a, b = (load_model(s.best).state_dict() for s in (local, ray_run))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert fit(toy_run(output="ray")).already_finished
    # What was given is saved, what was decided stands beside it.
    assert load_checkpoint_config(Path(ray_run.best)).runtime.device == "auto"
    noted = json.loads((Path(ray_run.best) / "checkpoint.json").read_text())["decided"]
    assert (noted["device"], noted["workers"]) == ("cuda" if torch.cuda.is_available() else "cpu", 1)


def test_two_workers_give_the_losses_of_one(ray_cluster, toy_run):
    one = fit_local(toy_run(output="one"), quiet=True)
    two = fit(toy_run("runtime.workers=2", output="two"))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert two.best_metrics.keys() == one.best_metrics.keys()


@pytest.mark.slow
def test_an_error_in_a_worker_is_its_own_sentence_and_is_not_tried_for_ever(ray_cluster, toy_run):
    config = toy_run("train.global_batch=64", "runtime.max_failures=5")
    with pytest.raises(GareError, match="less than one batch") as caught:
        fit(config)
    assert "\n" not in str(caught.value)


def worker_pids():
    """Training workers of this process's own Ray."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if b"RayTrainWorker" in (folder / "cmdline").read_bytes() and ours(int(folder.name)):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def ours(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finding the worker's process needs /proc")
def test_worker_killed_in_the_middle_of_an_epoch_changes_nothing(ray_cluster, toy_run):
    overrides = ("train.epochs=25", "data.captions=one_per_video", "runtime.checkpoint_every_steps=3")
    whole = fit_local(toy_run(*overrides, output="whole"), quiet=True)
    config = toy_run(*overrides, output="killed")
    folder = Path(config.runtime.output) / "toy"
    killed = []

    def kill_one():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            path = folder / "history.jsonl"
            if path.is_file() and path.read_text().count("epoch") >= 3 and (pids := worker_pids()):
                os.kill(pids[-1], signal.SIGKILL)
                killed.append(len(path.read_text().splitlines()))
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    summary = fit(config)
    thread.join()
    assert killed, "no worker was killed: the run was too fast for this test"
    assert killed[0] < len(history(summary))
    assert losses(summary) == losses(whole)
    a, b = (load_model(s.best).state_dict() for s in (whole, summary))
    assert all(torch.equal(a[name], b[name]) for name in a)


class Launches:
    """Stands in for Ray Train on a cluster that has fewer CPUs at each launch.

    The ranks of the first ``leaving`` leave a node that is taken away; ``failing`` more end in an error.
    """

    def __init__(self, monkeypatch, cpus, failing, leaving=0):
        from gare.launch import ray_train

        self.workers, self._failing, self._leaving = [], failing, leaving
        rooms = iter(cpus)
        monkeypatch.setattr(ray_train, "nodes_for", lambda _: [Node({"CPU": cpus[0]})])
        monkeypatch.setattr(ray_train, "_after_loss", lambda *_: [Node({"CPU": next(rooms)})])
        monkeypatch.setattr(ray_train, "_trainer", self.trainer)
        next(rooms)

    def trainer(self, *arguments):
        self.workers.append((arguments[1], arguments[3].max_failures))
        return self

    def fit(self):
        left = len(self.workers) <= self._leaving
        if not left and len(self.workers) <= self._leaving + self._failing:
            raise RuntimeError("a worker died")
        return SimpleNamespace(return_value="left" if left else None)


def launch(config):
    from gare.launch.ray_train import _launch_until_done
    from gare.runs.run import Run

    _launch_until_done(Run.open(config, frames=False), [], None)


def test_a_range_of_workers_starts_again_with_those_that_fit_then(toy_run, monkeypatch, capsys):
    launches = Launches(monkeypatch, [4.0, 3.0, 1.0], failing=2)
    launch(toy_run("runtime.workers=[1,4]"))
    assert launches.workers == [(4, 0), (2, 0), (1, 0)]  # 3 cannot share a batch of 4
    assert capsys.readouterr().err.count("It starts again") == 2


def test_a_range_of_workers_is_not_started_for_ever(toy_run, monkeypatch):
    launches = Launches(monkeypatch, [4.0] * 9, failing=9)
    with pytest.raises(RunError, match="Training stopped: a worker died"):
        launch(toy_run("runtime.workers=[1,4]", "runtime.max_failures=3"))
    assert len(launches.workers) == 4


@pytest.mark.parametrize(("workers", "launched"), [(2, 3), ([1, 4], 5)])
def test_ranks_that_left_a_node_in_time_start_again_and_use_up_no_retry(
    toy_run, monkeypatch, capsys, workers, launched
):
    launches = Launches(monkeypatch, [4.0] * 9, failing=9, leaving=2)
    with pytest.raises(RunError, match="Training stopped: a worker died"):
        launch(toy_run(f"runtime.workers={workers}", "runtime.max_failures=2"))
    assert len(launches.workers) == launched  # a fixed count is Ray's to start again after an error
    assert capsys.readouterr().err.count("A node of this run is going away.") == 2


def test_an_error_that_a_retry_cannot_mend_ends_a_range_of_workers_at_once(toy_run, tmp_path, monkeypatch):
    launches = Launches(monkeypatch, [4.0] * 9, failing=9)
    make_folder(tmp_path / "runs" / "toy").joinpath("failure.json").write_text(
        json.dumps({"message": "It cannot be.", "exit_code": 2})
    )
    with pytest.raises(RunError, match=r"It cannot be\."):
        launch(toy_run("runtime.workers=[1,4]"))
    assert len(launches.workers) == 1


def test_a_fixed_count_of_workers_is_rays_to_start_again(toy_run, monkeypatch):
    launches = Launches(monkeypatch, [4.0] * 9, failing=1)
    with pytest.raises(RunError, match="Training stopped"):
        launch(toy_run("runtime.workers=2", "runtime.max_failures=3"))
    assert launches.workers == [(2, 3)]


@pytest.mark.soak  # on a fast machine the run can end before its node is drained
def test_ranks_leave_a_node_that_is_drained_and_no_step_is_taken_twice(toy_run, tmp_path):
    overrides = ("train.epochs=40", "runtime.workers=1")
    whole = fit_local(toy_run(*overrides, output="whole"), quiet=True)
    settings, result = tmp_path / "settings.yaml", tmp_path / "result.json"
    settings.write_text(to_yaml(toy_run(*overrides, output="drained")))
    command = [sys.executable, "-m", "tests.shrinking_cluster", str(settings), str(result), "drain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "A node of this run is going away." in done.stderr
    summary = json.loads(result.read_text())
    assert summary["resumed_step"] is None  # one command, in two launches
    rows = [row for row in history(summary["directory"]) if "train/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, whole.steps + 1))
    assert [row["train/loss"] for row in rows] == losses(whole)


@pytest.mark.slow
def test_node_lost_and_none_in_its_place_goes_on_with_fewer_workers(toy_run, tmp_path):
    overrides = ("train.epochs=8", "runtime.checkpoint_every_steps=3", "runtime.workers=[1,2]")
    whole = fit_local(toy_run(*overrides, output="whole"), quiet=True)
    settings, result = tmp_path / "settings.yaml", tmp_path / "result.json"
    settings.write_text(to_yaml(toy_run(*overrides, output="shrunk")))
    command = [sys.executable, "-m", "tests.shrinking_cluster", str(settings), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "It starts again with as many workers as fit then" in done.stderr
    summary = json.loads(result.read_text())
    assert summary["steps"] == whole.steps
    rows = [row for row in history(summary["directory"]) if "train/loss" in row]
    assert [row["train/loss"] for row in rows] == pytest.approx(losses(whole), rel=1e-3)

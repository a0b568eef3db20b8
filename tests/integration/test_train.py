"""Training on Ray Train workers: the same numbers as without Ray, through failures too."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from gare.common.errors import GareError
from gare.model import load_model
from gare.training.local import fit_local

pytestmark = pytest.mark.ray


def history(summary_or_folder):
    folder = Path(getattr(summary_or_folder, "directory", summary_or_folder))
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def losses(summary):
    return [row["train/loss"] for row in history(summary) if "train/loss" in row]


def fit(config):
    from gare.training.ray_train import fit as fit_on_ray

    return fit_on_ray(config, quiet=True)


def test_one_ray_worker_and_a_plain_process_give_bit_identical_runs(ray_cluster, toy_run):
    local = fit_local(toy_run(output="local"), quiet=True)
    ray_run = fit(toy_run(output="ray"))
    assert losses(ray_run) == losses(local)
    assert ray_run.best_metrics == local.best_metrics
    a, b = (load_model(s.best).state_dict() for s in (local, ray_run))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert fit(toy_run(output="ray")).already_finished


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
    overrides = ("train.epochs=25", "data.captions=one_per_video")
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

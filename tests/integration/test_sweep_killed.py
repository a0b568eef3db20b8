"""A sweep killed with SIGKILL, its driver, a trial's worker and a trial's own process, and gone on with."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import mlflow
import pytest

from gare.config.tree import to_yaml
from gare.runs.state import read_history
from tests.processes import below, command, gare, kill, run, start, training_workers_below, wait_until
from tune.record import SWEEP_FILE, SweepRecord

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finding a trial's processes needs /proc"),
]
TRIALS, EPOCHS = 3, 6


@pytest.fixture
def sweep(toy_run, tmp_path):
    """Write the settings of a sweep of toy trials, and give its command and its folder."""
    config = toy_run(
        "runtime.name=killed",
        "runtime.tracking=true",
        "runtime.max_failures=5",
        f"train.epochs={EPOCHS}",
        f"sweep.trials={TRIALS}",
        "sweep.metric=dev/t2v/R@1",
        "sweep.space={objective.trust_region.weight: {uniform: [0.001, 0.1]}}",
        "sweep.max_concurrent=1",
    )
    path = tmp_path / "sweep.yaml"
    path.write_text(to_yaml(config))
    return gare("sweep", path), Path(config.runtime.output) / "killed"


def trial_with_an_epoch(folder):
    """The trial under way, once it has a checkpoint to go on from; None until then."""
    if not (folder / SWEEP_FILE).is_file():
        return None
    for trial in SweepRecord.read(folder).trials:
        rows = read_history(Path(trial.directory) / "history.jsonl")
        if trial.status == "running" and any("epoch" in row for row in rows):
            return trial
    return None


def own_processes_below(pid):
    return [found for found in below(pid) if "ResourceTrainable" in command(found)]


def killed(process, folder, pick):
    """Wait until a trial is under way, kill what ``pick`` finds, and give the trial's name."""
    assert wait_until(process, lambda: trial_with_an_epoch(folder) is not None and bool(pick(process.pid)))
    trial = trial_with_an_epoch(folder)
    for victim in pick(process.pid):
        os.kill(victim, signal.SIGKILL)
    return trial.name


def mlflow_runs(folder):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gare").experiment_id
    return {item.info.run_id: item for item in client.search_runs([experiment])}


def test_the_same_trials_each_once_whatever_was_killed(sweep):
    command_line, folder = sweep
    process = start(command_line)
    hit = killed(process, folder, lambda pid: [pid])
    process.wait()
    before = SweepRecord.read(folder)
    assert [trial.attempts for trial in before.trials][:1] == [1]

    process = start(gare("sweep", "--resume", folder))
    try:
        killed(process, folder, training_workers_below)
        killed(process, folder, own_processes_below)
        wait_until(process, lambda: False, 600)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            kill(process)

    after = SweepRecord.read(folder)
    assert [trial.overrides for trial in after.trials] == [trial.overrides for trial in before.trials]
    assert [trial.directory for trial in after.trials] == [trial.directory for trial in before.trials]
    assert all(trial.status == "done" and trial.epochs == EPOCHS for trial in after.trials)
    assert next(trial for trial in after.trials if trial.name == hit).attempts >= 2
    for old, new in zip(before.trials, after.trials, strict=True):
        assert old.run_id in (None, new.run_id)
        if old.settled:
            assert new == old
        # Every step was recorded once, so that no epoch was trained again and no two processes wrote at once.
        steps = Counter(
            row["step"] for row in read_history(Path(new.directory) / "history.jsonl") if "train/loss" in row
        )
        assert set(steps.values()) == {1}
        assert sorted(steps) == list(range(1, len(steps) + 1))
    runs = mlflow_runs(folder)
    assert set(runs) == {after.run_id, *(trial.run_id for trial in after.trials)}
    for trial in after.trials:
        tags = runs[trial.run_id].data.tags
        assert (tags["gare.sweep"], tags["gare.trial"], tags["gare.stage"]) == ("killed", trial.name, "search")
        assert runs[trial.run_id].info.status == "FINISHED"

    run(gare("sweep", "--resume", folder, "--extend", "1"))
    extended = SweepRecord.read(folder)
    assert extended.trials[:TRIALS] == after.trials
    assert [trial.settled for trial in extended.trials] == [True] * (TRIALS + 1)
    assert extended.run_id == after.run_id
    assert len(mlflow_runs(folder)) == len(runs) + 1

"""Sweeps through Ray Tune, with a stand-in for training that takes no time."""

import json
import os
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import ray
from ray import cloudpickle

import gare
from gare.cli import main
from gare.common.errors import ConfigError, RunError
from gare.common.nodes import Node
from gare.config.tree import build, load_config
from gare.launch.placement import group_zones
from gare.runs.layout import run_directory
from gare.runs.state import RunSummary
from tune.record import SweepRecord
from tune.sweep import run_sweep

METRIC = "dev/t2v/R@1"
WEIGHT = "objective.trust_region.weight"

# Ray's workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def pretend(config, *, callbacks, quiet, stop):
    """Train nothing: the metric is 100 (weight + 0.1), weight 0.3 breaks, weight 0.4 kills its process."""
    folder = run_directory(config)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "launches").open("a") as stream:
        stream.write("x")
    weight = config.objective.trust_region.weight
    if weight == 0.3 and not (folder.parent / "mended").exists():
        raise RunError("the videos are upside down\nand more")
    if weight == 0.4:
        os._exit(1)
    metrics = {METRIC: 100 * (weight + 0.1)}
    (folder / "history.jsonl").write_text(json.dumps({"step": 7, "epoch": 1, "time": 1.0, **metrics}) + "\n")
    return RunSummary(config.run_name(), str(folder), str(folder / "best"), metrics, 1, 7, 0.1)


def sweep_config(folder, weights, **sweep):
    return build(
        {
            "sweep": {"space": {WEIGHT: {"grid": weights}}, "trials": 1} | sweep,
            "runtime": {"name": "weights", "output": str(folder), "tracking_uri": f"sqlite:///{folder}/m.db"},
        }
    )


@pytest.mark.ray
def test_a_sweep_survives_broken_trials_and_goes_on_with_them_alone(ray_cluster, tmp_path):
    import mlflow

    config = sweep_config(tmp_path, [0.1, 0.2, 0.3, 0.4])
    seen = []
    report = run_sweep(config, on_progress=lambda *event: seen.append(event), trainer=pretend)

    assert [trial.status for trial in report.record.trials] == ["done", "done", "failed", "failed"]
    assert report.record.trials[2].error == "RunError: the videos are upside down"
    assert "process died" in report.record.trials[3].error
    assert [event[1:] for event in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.comparison.best.name == "trial-001"
    best = load_config(report.comparison.best_config)
    assert best.objective.trust_region.weight == 0.2
    assert (tmp_path / "weights" / "comparison.html").is_file()

    client = mlflow.MlflowClient(tracking_uri=config.runtime.tracking_uri)
    experiment = client.get_experiment_by_name("gare").experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{report.record.run_id}'")
    by_name = {run.info.run_name: run for run in children}
    assert [by_name[f"weights/trial-00{n}"].info.status for n in range(4)] == ["FINISHED"] * 2 + ["FAILED"] * 2
    assert by_name["weights/trial-001"].data.metrics["dev/t2v/R_at_1"] == pytest.approx(30)
    assert by_name["weights/trial-001"].data.params[WEIGHT] == "0.2"
    parent = client.get_run(report.record.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["gare.best_trial"] == "trial-001"
    assert {item.path for item in client.list_artifacts(report.record.run_id)} == {
        "best.yaml",
        "config.yaml",
        "comparison.html",
        "comparison.json",
        "sweep.json",
    }

    (tmp_path / "weights" / "mended").touch()
    again = run_sweep(config, on_progress=lambda *_: None, trainer=pretend)
    assert [trial.status for trial in again.record.trials] == ["done", "done", "done", "failed"]
    launches = [len((Path(trial.directory) / "launches").read_text()) for trial in again.record.trials]
    # A process that dies is started once more.
    assert launches == [1, 1, 2, 4]
    assert [trial.attempts for trial in again.record.trials] == [1, 1, 2, 4]
    assert again.comparison.best.name == "trial-002"
    assert SweepRecord.read(tmp_path / "weights").trials == again.record.trials

    with pytest.raises(ConfigError, match="holds another sweep"):
        run_sweep(sweep_config(tmp_path, [0.1]), on_progress=lambda *_: None, trainer=pretend)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_whose_trials_all_fail_is_an_error_that_says_why(ray_cluster, tmp_path):
    config = sweep_config(tmp_path, [0.3])
    with pytest.raises(RunError, match="All 1 trials failed; the first: RunError: the videos are upside down"):
        run_sweep(config, on_progress=lambda *_: None, trainer=pretend)


def workers(count, cpus, **runtime):
    return build({"runtime": {"workers": count, "cpus_per_worker": cpus, "device": "cpu"} | runtime})


def at_once(config, nodes):
    return len(group_zones(config.runtime, nodes, "A trial"))


def test_trials_at_a_time_are_what_the_nodes_have_room_for():
    assert at_once(workers(1, 1.0), [Node({"CPU": 2.0})]) == 2
    assert at_once(workers(2, 1.0), [Node({"CPU": 3.0})]) == 1
    assert at_once(workers(2, 0.1), [Node({"CPU": 1.0})]) == 5
    # Six CPUs, but each node has room for only one worker of two.
    assert at_once(workers(1, 2.0), [Node({"CPU": 3.0}), Node({"CPU": 3.0})]) == 2
    # Two workers need a GPU each.
    assert at_once(workers(2, 1.0, device="cuda"), [Node({"CPU": 64.0, "GPU": 4.0})]) == 2


def test_a_trial_that_cannot_fit_is_refused_with_the_arithmetic():
    with pytest.raises(RunError, match=r"needs 2 workers of 2 CPUs, but the cluster \(3 \+ 1 CPUs\) has room for 1"):
        at_once(workers(2, 2.0), [Node({"CPU": 3.0}), Node({"CPU": 1.0})])


def test_asha_that_could_stop_nothing_is_refused(tmp_path):
    config = sweep_config(tmp_path, [0.1], scheduler="asha", grace_epochs=5)
    with pytest.raises(ConfigError, match=r"sweep\.grace_epochs is 5"):
        run_sweep(config, on_progress=lambda *_: None, trainer=pretend)


@pytest.mark.ray
def test_the_function_and_the_command_give_one_result_and_leave_a_session_that_was_there(
    ray_cluster, tmp_path, toy_shards, monkeypatch, capfd
):
    monkeypatch.setattr("tune.sweep.run_sweep", partial(run_sweep, trainer=pretend))
    config = sweep_config(tmp_path, [0.1, 0.2])
    found = []
    # As in a notebook that works in a thread, where no handler of signals can be set.
    thread = threading.Thread(target=lambda: found.append(gare.sweep(config, shards=toy_shards)))
    thread.start()
    thread.join()
    assert found[0].comparison.best.name == "trial-001"
    assert ray.is_initialized()
    again = gare.sweep(resume=found[0].directory)
    assert again.comparison.trials == found[0].comparison.trials
    capfd.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["sweep", "--resume", str(found[0].directory), "--json"])
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(again.as_json()))

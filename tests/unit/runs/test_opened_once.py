"""A run is opened once: its settings, its shards and its copy on storage, in the driver and in each worker."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gare.common.errors import InputError
from gare.common.nodes import Node
from gare.launch import tracked as tracking
from gare.launch.tracked import tracked
from gare.runs.run import Run
from tests.path_to_first_loss import Counter, path_to_first_loss

OPENED = {
    "settings made absolute": ("gare.runs.layout", "absolute"),
    "datasets": ("gare.data.shards", "ShardSet.__init__"),
    "splits": ("gare.runs.inputs", "training_data"),
    "shards": ("gare.common.dataset_file", "read_shard"),
    "copies on storage": ("gare.runs.storage", "RunStorage.__init__"),
    "copies compared": ("gare.runs.storage", "RunStorage.pull"),
    "records": ("gare.runs.run", "open_run"),
    "settings built": ("gare.config.tree", "build"),
}
SHARDS = 2


def opened(calls):
    return {what: calls.get(place, 0) for what, place in OPENED.items()}


@pytest.fixture
def no_tracker(monkeypatch):
    monkeypatch.setattr(tracking, "begin", lambda *_, **__: None)
    monkeypatch.setattr(tracking, "sync", lambda _: None)


@pytest.mark.parametrize("tracked", [False, True])
def test_a_local_run_opens_everything_once(tmp_path, no_tracker, capfd, tracked):
    calls = path_to_first_loss(tmp_path, tracking=tracked)
    assert ("gare.training.step", "train_step") in calls
    assert opened(calls) == dict.fromkeys(OPENED, 1) | {"shards": SHARDS}


@pytest.fixture
def without_ray(monkeypatch):
    """Ray Train's place is taken by a call of the worker's function here, with what it would be sent."""
    from gare.launch import ray_train

    sent = []

    def trainer(run, *_):
        def fit():
            sent.append(json.loads(json.dumps({"run": run.description(), "device": "cpu", "watched": False})))
            return SimpleNamespace(return_value=ray_train._worker(sent[-1]))

        return SimpleNamespace(fit=fit)

    context = {name: (lambda: 0) for name in ("get_world_rank", "get_local_rank", "get_node_rank")}
    context["get_world_size"] = lambda: 1
    monkeypatch.setattr(ray_train, "_trainer", trainer)
    monkeypatch.setattr(ray_train, "nodes_for", lambda _: [Node({"CPU": 8.0})])
    monkeypatch.setattr(ray_train, "warn_on_lost_nodes", lambda _: nullcontext())
    monkeypatch.setattr(ray_train, "ending_without_head", nullcontext)
    monkeypatch.setattr(ray_train.ray.train, "get_context", lambda: SimpleNamespace(**context))
    monkeypatch.setattr(ray_train.ray.train, "report", lambda _: None)
    return sent


def test_on_ray_the_driver_opens_everything_once_and_so_does_each_worker(toy_run, without_ray, no_tracker):
    from gare.launch.ray_train import fit

    config = toy_run("train.epochs=1", "runtime.tracking=true")
    counter = Counter()
    counter.start()
    try:
        run = Run.open(config, frames=False)
        run.data.remarks(run.config)
        summary = tracked(run, lambda run: fit(run, quiet=True))
    finally:
        counter.stop()
    assert (summary.epochs, summary.already_finished) == (1, False)
    driver, worker = 1, 1
    found = opened(counter.calls)
    del found["copies compared"]  # once more when the workers have ended
    assert found == {
        "settings made absolute": driver,
        "datasets": driver + worker,
        "splits": driver + worker,
        "shards": (driver + worker) * SHARDS,
        "copies on storage": driver + worker,
        "records": driver + worker,
        "settings built": worker,
    }
    assert fit(run, quiet=True).already_finished  # its record was read again
    assert len(without_ray) == 1
    assert len(json.dumps(without_ray)) < 20_000


def test_a_worker_that_cannot_open_the_copy_on_storage_ends_the_run_at_once(toy_run, without_ray, monkeypatch):
    from gare.launch import ray_train

    run = Run.open(toy_run("train.epochs=1"))
    description = run.description()

    def cannot(*_):
        raise InputError("No storage here.")

    monkeypatch.setattr("gare.runs.run.RunStorage", cannot)
    with pytest.raises(InputError):
        ray_train._worker({"run": description, "device": "cpu", "watched": False})
    assert json.loads((run.folder / ray_train.FAILURE_FILE).read_text())["message"] == "No storage here."


def test_a_worker_that_finds_other_shards_than_the_driver_says_so(toy_run, tmp_path):
    from tests import toy

    run = Run.open(toy_run())
    description = run.description()
    description["config"]["runtime"]["shards"] = str(toy.make_shards(tmp_path / "other", {"train": 4, "dev": 4}))
    attached = Run.attach(description)
    with pytest.raises(InputError, match=r"holds other shards here \(dataset .*must name the same dataset on every"):
        _ = attached.data
    assert not attached.folder.exists()

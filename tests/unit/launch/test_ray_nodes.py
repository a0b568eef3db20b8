"""Waiting for nodes, and the zone that ranks start in; without a cluster."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from gare.common.errors import RunError
from gare.common.nodes import Node
from gare.config.tree import load_config
from gare.launch import ray_controller, ray_train
from gare.launch.placement import workers_that_fit

ZONE = "ray.io/availability-zone"
SMALL, LARGE = Node({"CPU": 1.0}), Node({"CPU": 4.0}, {"gare.role": "train"})


def settings(*overrides):
    return load_config(None, overrides)


@pytest.fixture
def cluster(monkeypatch):
    """Pretend to be connected to a cluster with these nodes at each look; gives what its autoscaler was asked."""
    asked = []
    monkeypatch.setattr(ray_controller, "LOOK_SECONDS", 0.01)

    @contextmanager
    def requested(bundles, selector):
        asked.append((list(bundles), dict(selector)))
        yield lambda: asked.append("again")
        asked.append("taken back")

    def pretend(*looks):
        left = list(looks)
        monkeypatch.setattr(ray_controller, "cluster_nodes", lambda: left.pop(0) if len(left) > 1 else left[0])
        monkeypatch.setattr(ray_controller, "requested", requested)
        return asked

    return pretend


def test_by_default_nothing_is_waited_for(cluster):
    asked = cluster([SMALL], [SMALL, LARGE])
    assert ray_controller.nodes_for(settings("runtime.workers=4").runtime) == [SMALL]
    assert asked == []


def test_nodes_are_asked_for_with_their_labels_until_they_are_there(cluster, capsys):
    asked = cluster([SMALL], [SMALL], [SMALL, LARGE])
    runtime = settings("runtime.workers=4", "runtime.wait_for_nodes=60", "runtime.cpus_per_worker=0.5").runtime
    assert ray_controller.nodes_for(runtime) == [SMALL, LARGE]
    assert asked == [([{"CPU": 0.5}] * 4, {"gare.role": "!decode"}), "again", "again", "taken back"]
    assert "no room for 4 workers of 0.5 CPU" in capsys.readouterr().err


def test_of_a_range_the_fewest_are_waited_for(cluster):
    asked = cluster([SMALL])
    assert ray_controller.nodes_for(settings("runtime.workers=[1,8]", "runtime.wait_for_nodes=60").runtime) == [SMALL]
    assert asked == []


def test_what_does_not_come_in_time_is_refused_as_ever(cluster):
    asked = cluster([SMALL])
    config = settings("runtime.workers=2", "runtime.wait_for_nodes=0.05", "runtime.device=cuda")
    nodes = ray_controller.nodes_for(config.runtime)
    assert asked[0] == ([{"CPU": 1.0, "GPU": 1.0}] * 2, {"gare.role": "!decode"})
    assert asked[-1] == "taken back"
    with pytest.raises(RunError, match="This run needs 2 workers of 1 CPUs and a GPU"):
        workers_that_fit(config, nodes, "This run")


def placed(monkeypatch, nodes, *overrides, wanted=None, workers=2):
    monkeypatch.setattr(ray_controller, "cluster_nodes", lambda: nodes)
    monkeypatch.setattr(ray_controller, "free_nodes", lambda: nodes)
    asked = ray_controller.CloseRanks(settings("runtime.device=cpu", *overrides), wanted)
    return asked.on_controller_start_worker_group(scaling_config=None, num_workers=workers)


def test_ranks_start_in_a_zone_that_holds_them_and_move_when_it_no_longer_does(monkeypatch):
    zones = [Node({"CPU": 2.0}, {ZONE: zone}) for zone in "aab"]
    assert placed(monkeypatch, zones) == {"gare.role": "!decode", ZONE: "a"}
    assert placed(monkeypatch, zones, wanted="b") == {"gare.role": "!decode", ZONE: "b"}
    lost = [Node({"CPU": 1.0}, {ZONE: "a"}), *zones[2:]]
    assert placed(monkeypatch, lost, "runtime.train_on={}") == {ZONE: "b"}
    assert placed(monkeypatch, zones, workers=5) is None
    assert placed(monkeypatch, zones, "runtime.close_by=null") is None


def test_a_run_that_lost_a_node_looks_again_until_ray_has_noticed(cluster, monkeypatch):
    waited = []
    monkeypatch.setattr(ray_train.time, "sleep", waited.append)
    looks = [[SMALL, LARGE], [SMALL, LARGE], [SMALL]]
    monkeypatch.setattr(ray_train, "cluster_nodes", lambda: looks.pop(0))
    cluster([SMALL])
    assert ray_train._after_loss([SMALL, LARGE], settings().runtime) == [SMALL]
    assert len(waited) == 2


def test_ranks_that_no_zone_holds_are_spread_with_a_note(capsys):
    zones = [Node({"CPU": 2.0}, {ZONE: zone}) for zone in "ab"]
    ray_controller.say_if_spread(settings().runtime, zones, 2)
    assert capsys.readouterr().err == ""
    ray_controller.say_if_spread(settings().runtime, zones, 3)
    assert "No one ray.io/availability-zone has room for 3 workers (a 2, b 2)" in " ".join(
        capsys.readouterr().err.split()
    )

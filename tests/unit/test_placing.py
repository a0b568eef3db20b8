"""Which nodes decode, and what is said where none may."""

from __future__ import annotations

import pytest

from gare.common import ray_cluster
from gare.common.errors import RunError
from gare.common.nodes import Node, selected
from gare.common.ray_data import kept_to
from pipelines.prepare.nodes import check_somewhere, decode_selector

HEAD = Node({"CPU": 0}, id="head")
CPU = Node({"CPU": 16}, {"gare.role": "decode"}, id="cpu")
PLAIN = Node({"CPU": 16}, id="plain")
GPU = Node({"CPU": 8, "GPU": 4}, id="gpu")
TRAIN = Node({"CPU": 8, "GPU": 4}, {"gare.role": "train"}, id="train")
OTHER = Node({"CPU": 8, "GPU": 4}, {"gare.role": "decode"}, id="other")


def named(node):
    """As Ray labels it."""
    return Node(node.resources, {**node.labels, "ray.io/node-id": node.id}, node.id)


def deciding(wanted, *nodes):
    nodes = [named(node) for node in nodes]
    return [node.id for node in selected(nodes, decode_selector(wanted, nodes))]


def test_decoding_keeps_off_training_nodes_and_off_gpus_that_no_label_gives_it():
    assert deciding(None, HEAD, CPU, PLAIN, GPU, TRAIN, OTHER) == ["head", "cpu", "plain", "other"]


def test_a_machine_alone_decodes_whatever_it_has():
    assert deciding(None, GPU) == ["gpu"]
    assert deciding(None, TRAIN) == ["train"]


def test_nodes_that_come_beside_a_head_are_not_for_training():
    (selector,) = [decode_selector(None, [HEAD])]
    assert selected([named(CPU), named(TRAIN)], selector) == [named(CPU)]


def test_who_asks_for_nodes_gets_those():
    assert deciding({}, HEAD, GPU, TRAIN) == ["head", "gpu", "train"]
    assert deciding({"gare.role": "train"}, CPU, GPU, TRAIN) == ["train"]


@pytest.fixture
def cluster(monkeypatch):
    """Pretend to be connected to a cluster of these nodes, whose autoscaler can add what ``may_come`` says."""

    def pretend(*nodes, may_come=False):
        asked = []
        monkeypatch.setattr(ray_cluster, "cluster_nodes", lambda: [named(node) for node in nodes])
        monkeypatch.setattr(ray_cluster, "may_come", lambda *what: asked.append(what) or may_come)
        return asked

    return pretend


def test_a_cluster_where_nothing_may_decode_is_refused_with_the_setting(cluster):
    cluster(HEAD, GPU, TRAIN)
    with pytest.raises(RunError, match=r"the 2 nodes with CPUs are kept for training.*runtime\.decode_on={}"):
        check_somewhere(None)
    check_somewhere({})
    cluster(CPU, PLAIN)
    with pytest.raises(RunError, match=r"not what runtime\.decode_on={gare\.role: train} selects"):
        check_somewhere({"gare.role": "train"})
    cluster(HEAD)
    with pytest.raises(RunError, match="No node of the cluster has a CPU to decode on"):
        check_somewhere(None)


def test_nodes_that_an_autoscaler_may_add_are_waited_for(cluster, capsys):
    asked = cluster(HEAD, TRAIN, may_come=True)
    check_somewhere(None)
    assert asked == [({"CPU": 1.0}, {"gare.role": "!train"})]
    assert "autoscaler adds them" in capsys.readouterr().err


def test_nobody_is_asked_where_a_node_may_decode(cluster):
    asked = cluster(HEAD, CPU, TRAIN)
    check_somewhere(None)
    assert asked == []


def test_ray_data_is_kept_to_the_nodes_and_to_no_nodes_afterwards():
    from ray.data import DataContext

    options = DataContext.get_current().execution_options
    with kept_to({"gare.role": "decode"}):
        assert options.label_selector == {"gare.role": "decode"}
    assert options.label_selector is None
    with kept_to({}):
        assert options.label_selector is None

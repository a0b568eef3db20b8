"""That there is no room for work any more is said, once, and that there is again."""

from __future__ import annotations

import threading

import pytest

from gare.common import ray_cluster
from gare.common.nodes import Node
from gare.config.tree import load_config
from gare.launch.ray_controller import capacity_message
from pipelines.prepare.nodes import lacking as nobody_decodes

ONE, TWO = [Node({"CPU": 1.0}, id="a")], [Node({"CPU": 1.0}, id="a"), Node({"CPU": 1.0}, id="b")]
GPUS = [Node({"CPU": 4.0, "GPU": 1.0}, {"ray.io/node-id": name}, name) for name in "ab"]
LOST = RuntimeError("the head is away")


@pytest.fixture
def said(monkeypatch, capsys):
    """Give what is said when the nodes are these at each look."""

    def of(*looks):
        left, over = list(looks), threading.Event()

        def nodes():
            if len(left) == 1:
                over.set()
            look = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(look, Exception):
                raise look
            return look

        monkeypatch.setattr(ray_cluster, "cluster_nodes", nodes)
        lack = lambda nodes: "Only one." if len(nodes) < 2 else None  # noqa: E731
        with ray_cluster.warn_on_lost_nodes(lack, every_s=0.001):
            assert over.wait(10)
        return capsys.readouterr().err.splitlines()

    return of


def test_a_loss_is_told_once_and_so_is_its_end(said):
    assert said(TWO, TWO, ONE, ONE, ONE, TWO, TWO, TWO) == ["warning: Only one.", "There is room again."]
    assert said(TWO, ONE, TWO, ONE, ONE, ONE).count("warning: Only one.") == 2


def test_what_lacks_from_the_beginning_is_not_told(said):
    assert said(ONE, ONE, TWO, TWO, TWO) == []
    assert said(ONE, ONE, TWO, ONE, ONE, ONE)[-1] == "warning: Only one."


def test_a_head_that_does_not_answer_is_asked_again(said):
    assert said(TWO, LOST, LOST, ONE, ONE, ONE) == ["warning: Only one."]


def test_ranks_that_no_longer_fit_are_counted_on_what_is_left():
    runtime = load_config(None, ["runtime.workers=2", "runtime.device=cuda"]).runtime
    assert capacity_message(runtime, GPUS, 2, "It goes on") is None
    assert capacity_message(runtime, GPUS[:1], 2, "It goes on") == (
        "Nodes were lost: 2 workers of 1 CPU and 1 GPU no longer fit (4 CPUs, 1 GPUs). It goes on when they do again."
    )


def test_decoding_lacks_nodes_that_may_decode_and_not_others():
    assert nobody_decodes(None, [*ONE, *GPUS]) is None
    assert "none that may decode is left" in nobody_decodes(None, GPUS)
    assert nobody_decodes({}, GPUS) is None

"""Which nodes decode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from gare.common.console import note
from gare.common.errors import RunError
from gare.common.nodes import DECODE, NODE_ID, ROLE, TRAIN, Nodes, Selector, in_words, selected

TASK = {"CPU": 1.0}
"""What a decode task asks Ray for."""


def decode_selector(wanted: Selector | None, nodes: Nodes) -> dict[str, str]:
    """Select the nodes that decode: ``wanted``, or by the default rule when None.

    The rule keeps off nodes that are labelled as training nodes and, among those whose labels do not say what they
    are for, off living nodes with GPUs. Where a cluster is one node, that node decodes.
    """
    if wanted is not None:
        return dict(wanted)
    if len(nodes) == 1:
        return {} if nodes[0].labels.get(ROLE) == TRAIN else {ROLE: f"!{TRAIN}"}
    selector = {ROLE: f"!{TRAIN}"}
    with_gpus = sorted(node.id for node in nodes if node.resources.get("GPU", 0) and ROLE not in node.labels)
    if with_gpus:
        selector[NODE_ID] = f"!in({','.join(with_gpus)})"
    return selector


def selector_now(wanted: Selector | None) -> dict[str, str]:
    """Select the nodes that decode, of those that are up now and of those that come."""
    from gare.common.ray_cluster import cluster_nodes

    return decode_selector(wanted, cluster_nodes())


def slots(selector: Selector) -> int:
    """How many tasks run at the same time on the nodes that are up and selected."""
    from gare.common.ray_cluster import cluster_nodes

    return sum(int(node.resources.get("CPU", 0) / TASK["CPU"]) for node in selected(cluster_nodes(), selector))


def check_somewhere(wanted: Selector | None) -> None:
    """Raise RunError when no node may decode and the autoscaler could add none: tasks would wait for ever."""
    from gare.common.ray_cluster import cluster_nodes, may_come

    nodes = cluster_nodes()
    selector = decode_selector(wanted, nodes)
    if holding(nodes, selector):
        return
    if not may_come(TASK, selector):
        raise RunError(nowhere(wanted, nodes, selector))
    note("No node that may decode is up yet; the cluster's autoscaler adds them.")


def lacking(wanted: Selector | None, nodes: Nodes) -> str | None:
    """Say that none of the nodes may decode any more; None when some do."""
    if holding(nodes, decode_selector(wanted, nodes)):
        return None
    return "Nodes were lost: none that may decode is left. Decoding goes on when there is one again."


def telling(lack: Callable[[Nodes], str | None]) -> AbstractContextManager[None]:
    """As ``gare.common.ray_cluster.warn_on_lost_nodes``, which loads Ray."""
    from gare.common import ray_cluster

    return ray_cluster.warn_on_lost_nodes(lack)


def holding(nodes: Nodes, selector: Selector) -> int:
    """How many of the nodes may decode and have a CPU for it."""
    return sum(node.resources.get("CPU", 0) >= TASK["CPU"] for node in selected(nodes, selector))


def nowhere(wanted: Selector | None, nodes: Nodes, selector: Selector) -> str:
    """Say that nothing may decode, and what to do."""
    with_cpus = holding(nodes, {})
    if not with_cpus:
        return "No node of the cluster has a CPU to decode on, and no autoscaler can add one; start a node with CPUs."
    those = f"the {with_cpus} nodes with CPUs are" if with_cpus > 1 else "the one node with CPUs is"
    why = "kept for training, by a label or for a GPU"
    if wanted is not None:
        why = f"not what runtime.decode_on={in_words(selector)} selects"
    return (
        f"Nothing may decode: {those} {why}, and no autoscaler can add another; start a node without GPUs, label "
        f"one {ROLE}={DECODE}, or set runtime.decode_on={{}} to decode anywhere."
    )

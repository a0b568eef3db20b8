"""Choose the nodes that decode."""

from __future__ import annotations

from gare.common.console import note
from gare.common.errors import RunError
from gare.common.nodes import DECODE, NODE_ID, ROLE, TRAIN, Nodes, Selector, in_words, selected

TASK = {"CPU": 1.0}
"""Resources that a decode task requests from Ray."""


def decode_selector(wanted: Selector | None, nodes: Nodes) -> dict[str, str]:
    """Select the nodes that decode: ``wanted``, or by the default rule if None.

    The rule excludes nodes labelled for training, and GPU nodes whose labels do not state their role. In a cluster of
    one node, that node decodes.
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
    """Select the nodes that decode, among those that are up now and those that come later."""
    from gare.common.ray_cluster import cluster_nodes

    return decode_selector(wanted, cluster_nodes())


def slots(selector: Selector) -> int:
    """Return how many tasks run at the same time on the selected nodes that are up."""
    from gare.common.ray_cluster import cluster_nodes

    return sum(int(node.resources.get("CPU", 0) / TASK["CPU"]) for node in selected(cluster_nodes(), selector))


def check_somewhere(wanted: Selector | None) -> None:
    """Raise RunError if no node may decode and the autoscaler could add none: tasks would wait for ever."""
    from gare.common.ray_cluster import cluster_nodes, may_come

    nodes = cluster_nodes()
    selector = decode_selector(wanted, nodes)
    if holding(nodes, selector):
        return
    if not may_come(TASK, selector):
        raise RunError(nowhere(wanted, nodes, selector))
    note("No node that may decode is up yet; the cluster's autoscaler adds them.")


def lacking(wanted: Selector | None, nodes: Nodes) -> str | None:
    """Return a sentence saying that none of the nodes may decode any more, or None if some may."""
    if holding(nodes, decode_selector(wanted, nodes)):
        return None
    return "Nodes were lost: none that may decode is left. Decoding continues when there is one again."


def holding(nodes: Nodes, selector: Selector) -> int:
    """Count the nodes that may decode and have a CPU for it."""
    return sum(node.resources.get("CPU", 0) >= TASK["CPU"] for node in selected(nodes, selector))


def nowhere(wanted: Selector | None, nodes: Nodes, selector: Selector) -> str:
    """Return a sentence saying that nothing may decode, and what to do."""
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

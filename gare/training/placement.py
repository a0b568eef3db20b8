"""Where workers fit: counted from what the nodes have, so that nothing waits for room that never comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gare.common.errors import RunError
from gare.config import RuntimeConfig

Nodes = Sequence[Mapping[str, float]]
"""The resources of each node, by Ray's names."""


def uses_gpu(runtime: RuntimeConfig, nodes: Nodes) -> bool:
    """Whether workers get a GPU each: when asked for, or when there are enough and the device is auto."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    return runtime.device == "cuda" or (runtime.device == "auto" and gpus >= runtime.workers)


def groups_that_fit(runtime: RuntimeConfig, nodes: Nodes, what: str) -> int:
    """How many groups of ``runtime.workers`` workers fit at the same time.

    Raises RunError, naming ``what`` needs them and the arithmetic, when not even one does.
    """
    use_gpu = uses_gpu(runtime, nodes)
    slots = 0
    for node in nodes:
        room = int(node.get("CPU", 0) / runtime.cpus_per_worker + 1e-9)
        slots += min(room, int(node.get("GPU", 0))) if use_gpu else room
    if slots < runtime.workers:
        each = f"{runtime.cpus_per_worker:g} CPUs" + (" and a GPU" if use_gpu else "")
        have = " + ".join(f"{node.get('CPU', 0):g}" for node in nodes) or "0"
        gpus = sum(node.get("GPU", 0) for node in nodes)
        raise RunError(
            f"{what} needs {runtime.workers} workers of {each}, but the cluster ({have} CPUs"
            + (f", {gpus:g} GPUs" if use_gpu else "")
            + f") has room for {slots}; lower runtime.workers or runtime.cpus_per_worker."
        )
    return slots // runtime.workers

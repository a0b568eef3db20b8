"""Where workers fit: counted from what the nodes have, so that nothing waits for room that never comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gare.common.errors import ConfigError, RunError
from gare.config import Config, RuntimeConfig

Nodes = Sequence[Mapping[str, float]]
"""The resources of each node, by Ray's names."""


def uses_gpu(runtime: RuntimeConfig, nodes: Nodes) -> bool:
    """Whether workers get a GPU each: when asked for, or when there are enough and the device is auto."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    return runtime.device == "cuda" or (runtime.device == "auto" and gpus >= runtime.fewest_workers)


def groups_that_fit(runtime: RuntimeConfig, nodes: Nodes, what: str) -> int:
    """How many groups of ``runtime.workers`` workers fit at the same time.

    Raises RunError, naming ``what`` needs them and the arithmetic, when not even one does, and ConfigError for a
    range of workers: groups that grow would take each other's room.
    """
    if not isinstance(runtime.workers, int):
        raise ConfigError(f"{what} shares the cluster with others, so runtime.workers must be one number, not a range.")
    return _room(runtime, nodes, runtime.workers, what) // runtime.workers


def workers_that_fit(config: Config, nodes: Nodes, what: str) -> int:
    """The most workers that ``runtime.workers`` allows, that share the global batch evenly and that fit.

    Raises RunError, naming ``what`` needs them and the arithmetic, when not even the fewest do.
    """
    counts = config.runtime.worker_counts(config.train.global_batch)
    room = _room(config.runtime, nodes, counts[-1], what)
    return next(count for count in counts if count <= room)


def _room(runtime: RuntimeConfig, nodes: Nodes, needed: int, what: str) -> int:
    """How many workers fit; RunError when fewer than ``needed`` do."""
    use_gpu = uses_gpu(runtime, nodes)
    slots = 0
    for node in nodes:
        room = int(node.get("CPU", 0) / runtime.cpus_per_worker + 1e-9)
        slots += min(room, int(node.get("GPU", 0))) if use_gpu else room
    if slots < needed:
        each = f"{runtime.cpus_per_worker:g} CPUs" + (" and a GPU" if use_gpu else "")
        have = " + ".join(f"{node.get('CPU', 0):g}" for node in nodes) or "0"
        gpus = sum(node.get("GPU", 0) for node in nodes)
        raise RunError(
            f"{what} needs {needed} workers of {each}, but the cluster ({have} CPUs"
            + (f", {gpus:g} GPUs" if use_gpu else "")
            + f") has room for {slots}; lower runtime.workers or runtime.cpus_per_worker."
        )
    return slots


def placement_tags(workers: int, device: str) -> dict[str, str]:
    """What a tracker is told of where a run trains."""
    return {"gare.world_size": str(workers), "gare.device": device}

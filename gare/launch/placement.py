"""Count the workers that fit a cluster's nodes, so that nothing waits for capacity that never comes."""

from __future__ import annotations

from collections import defaultdict

from gare.common.errors import ConfigError, RunError
from gare.common.nodes import DECODE, ROLE, Node, Nodes, in_words, selected
from gare.config import Config, RuntimeConfig


def rank_selector(runtime: RuntimeConfig) -> dict[str, str]:
    """Select the nodes that ranks run on: ``runtime.train_on``, or all that are not labelled for decoding."""
    return {ROLE: f"!{DECODE}"} if runtime.train_on is None else dict(runtime.train_on)


def rank_nodes(runtime: RuntimeConfig, nodes: Nodes) -> list[Node]:
    """Return the nodes that ranks may run on."""
    return selected(nodes, rank_selector(runtime))


def uses_gpu(runtime: RuntimeConfig, nodes: Nodes) -> bool:
    """Return True if workers get a GPU each: on request, or if there are enough and the device is auto."""
    gpus = sum(node.resources.get("GPU", 0) for node in rank_nodes(runtime, nodes))
    return runtime.device == "cuda" or (runtime.device == "auto" and gpus >= runtime.fewest_workers)


def rank_resources(runtime: RuntimeConfig, *, use_gpu: bool) -> dict[str, float]:
    """Return the resources that one worker asks Ray for."""
    return {"CPU": runtime.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})


def groups_that_fit(runtime: RuntimeConfig, nodes: Nodes, what: str) -> int:
    """Count the groups of ``runtime.workers`` workers that fit at the same time, each in a zone that holds it.

    Raises RunError, naming ``what`` needs them and the arithmetic, if not even one does, and ConfigError for a range of
    workers: growing groups would take each other's capacity.
    """
    return len(group_zones(runtime, nodes, what))


def group_zones(runtime: RuntimeConfig, nodes: Nodes, what: str) -> list[str | None]:
    """Return the zone of each group that fits at the same time, as ``groups_that_fit``; None for one without a zone."""
    workers = one_number(runtime, what)
    room = _enough_room(runtime, nodes, workers, what)
    zones = zone_rooms(runtime, nodes)
    close: list[str | None] = [zone for zone in zones for _ in range(zones[zone] // workers)]
    return close or [None] * (room // workers)


def one_number(runtime: RuntimeConfig, what: str) -> int:
    """Return the number of workers; ConfigError for a range."""
    if not isinstance(runtime.workers, int):
        raise ConfigError(f"{what} shares the cluster with others, so runtime.workers must be one number, not a range.")
    return runtime.workers


def workers_that_fit(config: Config, nodes: Nodes, what: str) -> int:
    """Return the most workers that ``runtime.workers`` allows, that share the global batch evenly and that fit.

    Raises RunError, naming ``what`` needs them and the arithmetic, if not even the fewest fit.
    """
    counts = config.runtime.worker_counts(config.train.global_batch)
    room = _enough_room(config.runtime, nodes, counts[-1], what)
    return next(count for count in counts if count <= room)


def actors_that_fit(runtime: RuntimeConfig, nodes: Nodes, what: str) -> tuple[int, dict[str, float]]:
    """Return the number of actors of ``runtime.index_workers``, or all that fit, and the resources of each.

    Raises RunError, naming ``what`` needs them and the arithmetic, if they do not fit.
    """
    needed = runtime.index_workers or 1
    runtime = runtime.model_copy(update={"workers": needed})
    room = _enough_room(runtime, nodes, needed, what, "runtime.index_workers")
    return runtime.index_workers or room, rank_resources(runtime, use_gpu=uses_gpu(runtime, nodes))


def fits(runtime: RuntimeConfig, nodes: Nodes, workers: int) -> bool:
    """Return True if that many workers fit."""
    return _room(runtime, rank_nodes(runtime, nodes), use_gpu=uses_gpu(runtime, nodes)) >= workers


def zone_rooms(runtime: RuntimeConfig, nodes: Nodes) -> dict[str, int]:
    """Count the workers that fit each value of ``runtime.close_by``; empty if all nodes have the same value.

    Nodes without the label are in no zone.
    """
    use_gpu = uses_gpu(runtime, nodes)
    zones: dict[str, list[Node]] = defaultdict(list)
    for node in rank_nodes(runtime, nodes):
        zone = node.labels.get(runtime.close_by) if runtime.close_by is not None else None
        if zone is not None:
            zones[zone].append(node)
    if len(zones) < 2:
        return {}
    return {zone: _room(runtime, zones[zone], use_gpu=use_gpu) for zone in sorted(zones)}


def choose_zone(
    runtime: RuntimeConfig, nodes: Nodes, workers: int, *, free: Nodes = (), wanted: str | None = None
) -> str | None:
    """Choose the zone that all of ``workers`` run in; None if there are no zones or none holds them.

    ``wanted`` if it holds them; else one that has ``free`` capacity for them now, then the one with the largest
    capacity.
    """
    rooms = zone_rooms(runtime, nodes)
    holding = [zone for zone, room in rooms.items() if room >= workers]
    if wanted in holding:
        return wanted
    now = zone_rooms(runtime, free)
    return min(holding, key=lambda zone: (now.get(zone, 0) < workers, -rooms[zone], zone), default=None)


def _room(runtime: RuntimeConfig, nodes: Nodes, *, use_gpu: bool) -> int:
    """Count the workers that fit these nodes, all open to ranks."""
    slots = 0
    for node in nodes:
        room = int(node.resources.get("CPU", 0) / runtime.cpus_per_worker + 1e-9)
        slots += min(room, int(node.resources.get("GPU", 0))) if use_gpu else room
    return slots


def _enough_room(runtime: RuntimeConfig, nodes: Nodes, needed: int, what: str, setting: str = "runtime.workers") -> int:
    """Count the workers that fit; RunError if fewer than ``needed``, the number of a ``setting``, do."""
    use_gpu, those = uses_gpu(runtime, nodes), rank_nodes(runtime, nodes)
    slots = _room(runtime, those, use_gpu=use_gpu)
    if slots < needed:
        left_out = _left_out(runtime, nodes)
        look = ", or change runtime.train_on" if left_out else ""
        each = f"{runtime.cpus_per_worker:g} CPUs" + (" and a GPU" if use_gpu else "")
        raise RunError(
            f"{what} needs {needed} workers of {each}, but the cluster ({offered(those, use_gpu=use_gpu)}) has room "
            f"for {slots}{left_out}; lower {setting} or runtime.cpus_per_worker{look}."
        )
    return slots


def offered(nodes: Nodes, *, use_gpu: bool) -> str:
    """Describe the nodes' resources."""
    have = " + ".join(f"{node.resources.get('CPU', 0):g}" for node in nodes) or "0"
    gpus = sum(node.resources.get("GPU", 0) for node in nodes)
    return f"{have} CPUs" + (f", {gpus:g} GPUs" if use_gpu else "")


def _left_out(runtime: RuntimeConfig, nodes: Nodes) -> str:
    """Describe how many nodes with CPUs are closed to ranks; empty if there are none."""
    count = sum(node.resources.get("CPU", 0) > 0 for node in nodes)
    count -= sum(node.resources.get("CPU", 0) > 0 for node in rank_nodes(runtime, nodes))
    if not count:
        return ""
    return f" without {count} node{'s' * (count > 1)} whose labels are not {in_words(rank_selector(runtime))}"


def placement_tags(workers: int, device: str) -> dict[str, str]:
    """Return the tags that record where a run trains."""
    return {"gare.world_size": str(workers), "gare.device": device}

"""The nodes of a cluster that a run waits for and is placed on."""

from __future__ import annotations

import time
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback

from gare.common.console import note
from gare.common.nodes import Nodes, in_words
from gare.common.ray_cluster import cluster_nodes, free_nodes, requested
from gare.config import Config, RuntimeConfig
from gare.launch.placement import (
    choose_zone,
    fits,
    offered,
    rank_nodes,
    rank_resources,
    rank_selector,
    uses_gpu,
    zone_rooms,
)

LOOK_SECONDS = 1.0


def nodes_for(runtime: RuntimeConfig) -> Nodes:
    """The nodes that are up; where the fewest workers do not fit, after ``runtime.wait_for_nodes`` at most.

    Meanwhile the autoscaler is asked for room for them. Whether they get GPUs is decided by the nodes that are up.
    """
    nodes: Nodes = cluster_nodes()
    workers = runtime.fewest_workers
    if not runtime.wait_for_nodes or fits(runtime, nodes, workers):
        return nodes
    bundle = rank_resources(runtime, use_gpu=uses_gpu(runtime, nodes))
    selector = rank_selector(runtime)
    needs = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    note(
        f"The cluster has no room for {workers} workers of {needs} on nodes {in_words(selector)}; waiting "
        f"{runtime.wait_for_nodes:g} s at most for its autoscaler (runtime.wait_for_nodes)."
    )
    until = time.monotonic() + runtime.wait_for_nodes
    with requested([bundle] * workers, selector) as ask_again:
        while not fits(runtime, nodes, workers) and time.monotonic() < until:
            time.sleep(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))
            ask_again()
            nodes = cluster_nodes()
    return nodes


def say_if_spread(runtime: RuntimeConfig, nodes: Nodes, workers: int) -> None:
    """Note that the workers of a run are not close together, where they could be told apart."""
    zones = zone_rooms(runtime, nodes)
    if zones and choose_zone(runtime, nodes, workers) is None:
        rooms = ", ".join(f"{zone} {room}" for zone, room in zones.items())
        note(f"No one {runtime.close_by} has room for {workers} workers ({rooms}), so they are spread over several.")


def capacity_message(runtime: RuntimeConfig, nodes: Nodes, workers: int, then: str) -> str | None:
    """Say that ``workers`` no longer fit, and what goes on when they do again; None when they fit."""
    if fits(runtime, nodes, workers):
        return None
    use_gpu = uses_gpu(runtime, nodes)
    needs = " and ".join(f"{amount:g} {name}" for name, amount in rank_resources(runtime, use_gpu=use_gpu).items())
    left = offered(rank_nodes(runtime, nodes), use_gpu=use_gpu)
    return f"Nodes were lost: {workers} workers of {needs} no longer fit ({left}). {then} when they do again."


class CloseRanks(ControllerCallback):  # type: ignore[misc]
    """Puts all ranks of a run into one zone, chosen anew each time they start: nodes may have been lost meanwhile.

    Ray Train's controller asks it; ``config``: with the device decided; ``wanted``: the zone to take if it has room.
    """

    def __init__(self, config: Config, wanted: str | None) -> None:
        self._settings, self._wanted = config.runtime.model_dump(mode="json"), wanted

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:
        """Give the labels of the nodes to start on; None leaves it to the scaling config."""
        del scaling_config
        runtime = RuntimeConfig.model_validate(self._settings)
        zone = choose_zone(runtime, cluster_nodes(), num_workers, free=free_nodes(), wanted=self._wanted)
        if zone is None or runtime.close_by is None:
            return None
        return rank_selector(runtime) | {runtime.close_by: zone}

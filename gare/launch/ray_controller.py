"""Manage Ray Train's controller: wait for nodes, place ranks, and run it inside a sweep's trial.

Around its workers, Ray Train starts a controller, a cleaner that watches it and a watcher of preemptions, each a
process that imports much before it does little. A trial is already a process, which is reused for the next trial, so
the controller can run in it; the run is still a Ray Train run. Only this file uses private names of Ray Train, in the
version that ``constraints.txt`` pins.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from gare.common.console import note
from gare.common.errors import RunError
from gare.common.files import write_json
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


PLACEMENT_FILE = "placement.json"
POLL_SECONDS = 0.2
LIGHTER = {
    # How often it checks its workers, and so how soon it learns of an epoch or of the end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    # A worker on a node that disappears is lost and restarted, whether that was announced or not.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}


def nodes_for(runtime: RuntimeConfig) -> Nodes:
    """Return the living nodes; if the fewest workers do not fit, after at most ``runtime.wait_for_nodes``.

    Meanwhile the autoscaler is asked for capacity. The present nodes decide whether the workers get GPUs.
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
    """Note that the workers of a run are spread over several zones."""
    zones = zone_rooms(runtime, nodes)
    if zones and choose_zone(runtime, nodes, workers) is None:
        rooms = ", ".join(f"{zone} {room}" for zone, room in zones.items())
        note(f"No one {runtime.close_by} has room for {workers} workers ({rooms}), so they are spread over several.")


def capacity_message(runtime: RuntimeConfig, nodes: Nodes, workers: int, then: str) -> str | None:
    """Report that ``workers`` no longer fit, and what continues when they do again; None if they fit."""
    if fits(runtime, nodes, workers):
        return None
    use_gpu = uses_gpu(runtime, nodes)
    needs = " and ".join(f"{amount:g} {name}" for name, amount in rank_resources(runtime, use_gpu=use_gpu).items())
    left = offered(rank_nodes(runtime, nodes), use_gpu=use_gpu)
    return f"Nodes were lost: {workers} workers of {needs} no longer fit ({left}). {then} when they do again."


class CloseRanks(ControllerCallback):  # type: ignore[misc]
    """A callback that puts all ranks of a run into one zone, chosen at each start because nodes may be lost in between.

    Ray Train's controller calls it; ``config``: with the device decided; ``wanted``: the zone to use if it has
    capacity.
    """

    def __init__(self, config: Config, wanted: str | None) -> None:
        self._settings, self._wanted = config.runtime.model_dump(mode="json"), wanted

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:
        """Return the labels of the nodes to start on; None leaves the choice to the scaling config."""
        del scaling_config
        runtime = RuntimeConfig.model_validate(self._settings)
        zone = choose_zone(runtime, cluster_nodes(), num_workers, free=free_nodes(), wanted=self._wanted)
        if zone is None or runtime.close_by is None:
            return None
        return rank_selector(runtime) | {runtime.close_by: zone}


class StoppedError(RunError):
    """Training was asked to stop before its end."""


class HereTrainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer whose controller runs in the calling process, a Ray actor, and which ``stop`` ends.

    ``folder`` gets the file that ``release`` needs.
    """

    def __init__(self, *arguments: Any, stop: threading.Event, folder: Path, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._stop, self._folder = stop, folder

    def _create_default_callbacks(self) -> list[Any]:
        # Each would start a process: one frees what ``release`` and ``stop`` free, the other serves no data sets.
        needless = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, needless)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        try:
            return asyncio.run(_control(self._controller(settings), self._stop))
        finally:
            release(self._folder)  # workers that could not start still hold their reservation

    def _controller(self, settings: dict[str, Any]) -> Any:
        path = self._folder / PLACEMENT_FILE

        class NotedGroup(WorkerGroup):  # type: ignore[misc]
            """A group that writes down its reservation: nobody else could free it if this process is killed."""

            def _create_placement_group(self, *arguments: Any, **named: Any) -> Any:
                handle = super()._create_placement_group(*arguments, **named)
                write_json(path, {"id": handle.placement_group.id.hex()})
                return handle

        class HereController(TrainController):  # type: ignore[misc]
            """A controller that makes such groups."""

            worker_group_cls = NotedGroup

        os.environ.setdefault("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "0")
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        return HereController(**settings)


async def _control(controller: Any, stop: threading.Event) -> Any:
    """Run the controller to its end and return Ray Train's result; StoppedError if it was asked to stop before."""
    running = asyncio.ensure_future(controller.run())
    while not running.done() and not stop.is_set():
        await asyncio.wait({running}, timeout=POLL_SECONDS)
    if running.done():
        running.result()
        return controller.get_result()
    running.cancel()
    await asyncio.wait({running})
    group = controller.get_worker_group()
    if group is not None:
        group.abort()
    raise StoppedError("Training was stopped.")


def release(folder: Path) -> None:
    """Free what a killed run's workers had reserved, which also ends them; otherwise do nothing."""
    path = folder / PLACEMENT_FILE
    try:
        group = PlacementGroup(PlacementGroupID.from_hex(json.loads(path.read_text(encoding="utf-8"))["id"]))
        if placement_group_table(group).get("state") not in (None, "REMOVED"):
            remove_placement_group(group)
    except (OSError, ValueError, KeyError, TypeError, ray.exceptions.RayError):
        return
    path.unlink(missing_ok=True)

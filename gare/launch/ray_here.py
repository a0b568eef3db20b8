"""Ray Train with its controller in this process, for the many short runs of a sweep.

Around its workers, Ray Train starts a controller, a cleaner that watches it and a watcher of preemptions, each a
process that imports much before it does little. A trial already is a process of its own, which lives on for the next
trial, so the controller can run in it: the run is a Ray Train run all the same. It relies on insides of the Ray version
that ``constraints.txt`` pins.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from gare.common.errors import RunError
from gare.common.files import write_json

PLACEMENT_FILE = "placement.json"
POLL_SECONDS = 0.2
LIGHTER = {
    # Looks at its workers this often: how late an epoch is heard of, and the end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    # A worker on a node that goes away is lost and started again, announced or not.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}


class StoppedError(RunError):
    """Training was asked to stop before its end."""


class HereTrainer(TorchTrainer):  # type: ignore[misc]
    """Like TorchTrainer, but the controller runs in the calling process, a Ray actor, and ``stop`` ends training.

    ``folder`` gets the file that ``release`` needs.
    """

    def __init__(self, *arguments: Any, stop: threading.Event, folder: Path, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._stop, self._folder = stop, folder

    def _create_default_callbacks(self) -> list[Any]:
        # Each would start a process: the one frees what ``release`` and ``stop`` free, the other serves no data sets.
        needless = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, needless)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        try:
            return asyncio.run(_control(self._controller(settings), self._stop))
        finally:
            release(self._folder)  # workers that could not start leave their room reserved

    def _controller(self, settings: dict[str, Any]) -> Any:
        path = self._folder / PLACEMENT_FILE

        class NotedGroup(WorkerGroup):  # type: ignore[misc]
            """Writes down what it reserved: nobody else could free it when this process is killed."""

            def _create_placement_group(self, *arguments: Any, **named: Any) -> Any:
                handle = super()._create_placement_group(*arguments, **named)
                write_json(path, {"id": handle.placement_group.id.hex()})
                return handle

        class HereController(TrainController):  # type: ignore[misc]
            """Makes such groups."""

            worker_group_cls = NotedGroup

        os.environ.setdefault("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "0")
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        return HereController(**settings)


async def _control(controller: Any, stop: threading.Event) -> Any:
    """Run the controller to its end and give Ray Train's result; StoppedError when asked to stop before."""
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
    """Free what a run's workers had reserved, its workers ended, where its process was killed; else nothing happens."""
    path = folder / PLACEMENT_FILE
    try:
        group = PlacementGroup(PlacementGroupID.from_hex(json.loads(path.read_text(encoding="utf-8"))["id"]))
        if placement_group_table(group).get("state") not in (None, "REMOVED"):
            remove_placement_group(group)
    except (OSError, ValueError, KeyError, TypeError, ray.exceptions.RayError):
        return
    path.unlink(missing_ok=True)

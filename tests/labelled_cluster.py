"""Prepare, train and sweep on a cluster of labelled nodes; prints as JSON which nodes each was placed on.

A process of its own, since a process knows one cluster only. Arguments: a folder, its manifest, and a run's settings.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ZONE = "ray.io/availability-zone"
ROLE = "gare.role"
NAME = "name"
NODES: dict[str, dict[str, Any]] = {
    "gpu": {"num_cpus": 2, "num_gpus": 1},
    "decode": {"num_cpus": 1, "labels": {ROLE: "decode", ZONE: "a"}},
    "train-a": {"num_cpus": 1, "labels": {ROLE: "train", ZONE: "a"}},
    "train-b": {"num_cpus": 2, "labels": {ROLE: "train", ZONE: "b"}},
}
SMALL = {"object_store_memory": 80 * 2**20}


def main() -> None:
    """Say it all."""
    import ray
    from ray.cluster_utils import Cluster

    from gare.config.tree import load_config

    folder, manifest, settings = map(Path, sys.argv[1:])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    try:
        for name, about in NODES.items():
            cluster.add_node(wait=False, **SMALL, **about | {"labels": {**about.get("labels", {}), NAME: name}})
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        names = {node["NodeID"]: node["Labels"].get(NAME, "head") for node in ray.nodes()}
        config = load_config(settings)
        print(  # noqa: T201
            json.dumps(
                {
                    "decode": decode(folder, manifest, names, None),
                    "asked": decode(folder, manifest, names, {ROLE: "train", ZONE: "b"}),
                    "refused": refused(folder, manifest),
                    "train": train(config, names),
                    "sweep": sweep(config, names),
                }
            )
        )
    finally:
        ray.shutdown()
        cluster.shutdown()


def where(output: Any, unit: int, *, again: Any) -> Any:
    """Process a unit and note on which node."""
    import ray

    from pipelines.prepare.process_unit import process_unit

    (Path(str(output.place)) / f"at-{ray.get_runtime_context().get_node_id()}").touch()
    return process_unit(output, unit, again=again)


def decode(folder: Path, manifest: Path, names: dict[str, str], on: dict[str, str] | None) -> list[str]:
    """The nodes that decoded."""
    from gare.config.prepare import PrepareConfig
    from pipelines.prepare.job import open_job, run_job

    out = folder / f"shards-{time.monotonic_ns()}"
    recipe = PrepareConfig(max_frames=2, short_side=32, crop=32, unit_videos=1)
    with open_job(manifest, out, recipe) as job:
        run_job(job, decode_on=on, work=where)
    return sorted(names[path.name.removeprefix("at-")] for path in out.glob("at-*"))


def refused(folder: Path, manifest: Path) -> str:
    """What is said where no node may decode."""
    from gare.common.errors import RunError

    try:
        decode(folder, manifest, {}, {ROLE: "nobody"})
    except RunError as error:
        return str(error)
    return ""


def train(config: Any, names: dict[str, str]) -> list[list[str]]:
    """The nodes of each group of processes while a run with two ranks trains."""
    from gare.config.tree import with_overrides
    from gare.launch.ray_train import fit

    with watched(names) as seen:
        fit(with_overrides(config, {"runtime.workers": 2}), quiet=True)
    return seen()


def sweep(config: Any, names: dict[str, str]) -> list[list[str]]:
    """The same of a sweep of two trials, of one rank each."""
    from gare.config.tree import with_overrides
    from tune.sweep import run_sweep

    space = {"objective.trust_region.weight": {"grid": [0.1, 0.2]}}
    overrides = {"runtime.name": "s", "sweep.space": space, "train.epochs": 1}
    with watched(names) as seen:
        report = run_sweep(with_overrides(config, overrides), on_progress=lambda *_: None)
    assert all(trial.status == "done" for trial in report.record.trials), report.record.trials
    return seen()


@contextmanager
def watched(names: dict[str, str]) -> Iterator[Callable[[], list[list[str]]]]:
    """Look at Ray's placement groups during the block; gives the nodes of all that were there."""
    from ray.util import placement_group_table

    before = set(placement_group_table())
    found: dict[str, list[str]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            for group, about in placement_group_table().items():
                if group not in before and about["state"] == "CREATED":
                    found[group] = sorted(names[node] for node in about["bundles_to_node_id"].values())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield lambda: sorted(found.values())
    done.set()
    thread.join()


if __name__ == "__main__":
    main()

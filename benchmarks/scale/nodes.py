"""Many logical nodes on one machine: raylets with few slots each, and what their processes cost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
STORE_BYTES = 80 * 2**20
MIB = 2**20


@dataclass(frozen=True)
class Used:
    """CPU seconds so far of the driver, of the GCS and all raylets, and of the worker processes; busy CPU of all."""

    driver: float
    scheduler: float
    workers: float
    machine: float


@contextmanager
def logical_nodes(count: int, slots: int) -> Iterator[None]:
    """A head without CPUs and ``count`` nodes of ``slots`` CPUs, with Ray initialised as their driver.

    All their processes are gone afterwards.
    """
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        import ray
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": scratch, **small})
        started: list[psutil.Process] = []
        try:
            for _ in range(count):
                cluster.add_node(wait=False, num_cpus=slots, **small)
            cluster.wait_for_nodes(timeout=300)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield
        finally:
            started = psutil.Process().children(recursive=True)
            ray.shutdown()
            cluster.shutdown()
            _kill(started)


def _kill(processes: list[psutil.Process]) -> None:
    """End what did not end by itself: a GCS outlives SIGTERM."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=20)


def used() -> Used:
    """What this driver and the cluster that it started have used so far."""
    driver = _cpu(psutil.Process())
    scheduler = workers = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            name, taken = process.name(), _cpu(process)
            if name in ("gcs_server", "raylet"):
                scheduler += taken
            elif name.startswith("ray::"):
                workers += taken
    busy = psutil.cpu_times()
    return Used(driver, scheduler, workers, busy.user + busy.system + busy.nice)


def worker_memory() -> tuple[int, float]:
    """How many worker processes there are, and the mean MB (2^20) that each holds alone."""
    held = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::"):
                held.append(process.memory_full_info().uss / MIB)
    return len(held), sum(held) / len(held) if held else 0.0


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

"""Run many logical nodes on one machine: raylets with few slots each, their processes' cost, and Ray Train on them.

The training's steps sleep; its workers do not use torch.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gare.common.files import write_json

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
    """Start a head without CPUs and ``count`` nodes of ``slots`` CPUs, with Ray initialised as their driver.

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
    """End the remaining processes: a GCS outlives SIGTERM."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=20)


def used() -> Used:
    """Return the CPU use so far of this driver and the cluster that it started."""
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
    """Return the number of worker processes, and the mean MB (2^20) of their private memory."""
    held = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::"):
                held.append(process.memory_full_info().uss / MIB)
    return len(held), sum(held) / len(held) if held else 0.0


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rank(settings: dict[str, Any]) -> None:
    """Run a rank: like gare's training, it reports the epoch's rows, without a checkpoint of Ray's."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    epochs = []
    for epoch in range(settings["epochs"]):
        start = time.time()
        for _ in range(settings["steps"]):
            time.sleep(settings["step_s"])
        stepped = time.time()
        rows = [{"step": step, "loss": 1.0, "samples_per_s": 1.0} for step in range(settings["steps"])]
        ray.train.report({"epoch": epoch, "history": rows})
        epochs.append({"start": start, "stepped": stepped, "reported": time.time()})
    write_json(Path(settings["folder"]) / f"{rank}.json", epochs)


def fake_run(ranks: int, epochs: int, steps: int, step_s: float) -> dict[str, float]:
    """Train with so many one-CPU ranks, with Ray initialised: its start, the cost of its reports, its efficiency."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    with tempfile.TemporaryDirectory() as folder:
        settings = {"epochs": epochs, "steps": steps, "step_s": step_s, "folder": folder}
        began = time.time()
        DataParallelTrainer(
            _rank,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=ranks, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name="fake", storage_path=f"{folder}/ray", failure_config=FailureConfig(max_failures=0)
            ),
        ).fit()
        ended = time.time()
        all_ranks = [json.loads((Path(folder) / f"{rank}.json").read_text("utf-8")) for rank in range(ranks)]
    started = [epochs_of[0]["start"] for epochs_of in all_ranks]
    # A rank that starts early waits for the others in its first report, which counts as start-up too.
    late = [max(one["stepped"] for one in of_epoch) for of_epoch in zip(*all_ranks, strict=True)]
    reports = [
        max(one["reported"] for one in of_epoch) - stepped
        for of_epoch, stepped in zip(zip(*all_ranks, strict=True), late, strict=True)
    ]
    finished = max(epochs_of[-1]["reported"] for epochs_of in all_ranks)
    return {
        "start_s": max(started) - began,
        "apart_s": max(started) - min(started),
        "report_s": statistics.median(reports),
        "efficiency": epochs * steps * step_s / (finished - max(started)),
        "end_s": ended - finished,
    }

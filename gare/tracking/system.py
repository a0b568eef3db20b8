"""Write samples of a machine's load during training to a file, from which the tracker gets them.

The names are those of MLflow's own monitor, so that its page shows them under System metrics.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

MB = 1e6


@contextmanager
def watching(folder: Path, node: int, every_s: float | None) -> Iterator[None]:
    """Write a line to ``system-<node>.jsonl`` every ``every_s`` seconds while the block runs; None turns it off."""
    if every_s is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(folder, node, every_s, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _sample(folder: Path, node: int, every_s: float, stop: threading.Event) -> None:
    gpus = _gpus()
    psutil.cpu_percent()  # starts counting
    sent, received = _network()
    wait = min(1.0, every_s)  # the first sample comes early, so that short runs have one too
    while not stop.wait(wait):
        wait = every_s
        row = {"time": round(time.time(), 3), **_cpu(), **_disk(folder), **gpus()}
        up, down = _network()
        row |= {"network_transmit_megabytes": (up - sent) / MB, "network_receive_megabytes": (down - received) / MB}
        # A lost sample does not matter; required writes report a full disk.
        with suppress(OSError), (folder / f"system-{node}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({name: round(value, 3) for name, value in row.items()}) + "\n")


def _cpu() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MB,
        "system_memory_usage_percentage": 100 * memory.used / memory.total,
    }


def _disk(folder: Path) -> dict[str, float]:
    with suppress(OSError):
        usage = psutil.disk_usage(os.fspath(folder))
        return {
            "disk_usage_percentage": usage.percent,
            "disk_usage_megabytes": usage.used / MB,
            "disk_available_megabytes": usage.free / MB,
        }
    return {}


def _network() -> tuple[int, int]:
    counters = psutil.net_io_counters()
    return (counters.bytes_sent, counters.bytes_recv) if counters else (0, 0)


def _gpus() -> Callable[[], dict[str, float]]:
    """Return a function that samples every GPU of the machine; it finds none if pynvml or a driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # noqa: BLE001 - pynvml raises many kinds without a driver, in a container
        return dict

    def sample() -> dict[str, float]:
        row: dict[str, float] = {}
        for index, device in enumerate(devices):
            with suppress(Exception):  # a part of a GPU has fewer readings
                row |= _gpu(pynvml, index, device)
        return row

    return sample


def _gpu(nvml: Any, index: int, device: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    return {
        f"gpu_{index}_memory_usage_percentage": 100 * memory.used / memory.total,
        f"gpu_{index}_memory_usage_megabytes": memory.used / MB,
        f"gpu_{index}_utilization_percentage": float(nvml.nvmlDeviceGetUtilizationRates(device).gpu),
    }

"""Tests over several ranks: processes joined by gloo that report, fail or are ended within a time, and never hang."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

SECONDS = 240.0
"""Less than the limit of a test, so that what is wrong is named."""


def run_ranks(worker: Callable[..., Any], size: int, *arguments: Any, seconds: float = SECONDS) -> list[Any]:
    """Call ``worker(rank, size, *arguments)`` in ``size`` processes; what each returned (JSON values), by rank.

    A worker that raises fails the test with its traceback, and one that does not end in time is named; the others are
    ended in either case.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawned = mp.spawn(_rank, (worker, size, folder, arguments), nprocs=size, join=False)
        until = time.monotonic() + seconds
        try:
            while not spawned.join(timeout=1.0):
                late = [rank for rank, process in enumerate(spawned.processes) if process.is_alive()]
                assert time.monotonic() < until, f"ranks {late} of {size} did not end within {seconds:g} s"
        finally:
            for process in spawned.processes:
                process.kill()
                process.join()
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


def _rank(rank: int, worker: Callable[..., Any], size: int, folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    found = worker(rank, size, *arguments)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()

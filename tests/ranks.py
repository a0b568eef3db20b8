"""Functions run on several processes that reduce over gloo, so that no failure can hang the test."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing as mp

from gare.objective import TorchWorld

SECONDS = 200.0
PRELOADED = ["gare.training.loop"]


def on_ranks(size: int, work: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> list[Any]:
    """What ``work(ranks, *args)`` returns on each of ``size`` ranks, in rank order; plain values only.

    AssertionError with the traceback of the first rank that fails, or with the ranks that gave no answer within
    ``seconds``. No process is left behind.
    """
    # Forked from one process that has imported what takes seconds, and has run nothing.
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        processes, answers = [], {}
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            given = (theirs, rank, size, f"file://{folder}/store", seconds, work, args)
            processes.append(context.Process(target=_rank, args=given, daemon=True))
            processes[-1].start()
            theirs.close()
            answers[ours] = rank
        try:
            return _collected(answers, time.monotonic() + seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collected(answers: dict[Connection, int], deadline: float) -> list[Any]:
    """Every rank's answer, read as it comes: a rank may be unable to end before its answer is read."""
    waiting, found = dict(answers), {}
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        assert ready, f"no answer in time from the ranks {sorted(waiting.values())}"
        for connection in ready:
            rank = waiting.pop(connection)
            try:
                value, error = connection.recv()
            except EOFError:
                value, error = None, "it ended without an answer"
            assert error is None, f"rank {rank} failed: {error}"
            found[rank] = value
    return [found[rank] for rank in sorted(found)]


def _rank(answer: Connection, rank: int, size: int, store: str, seconds: float, work: Any, args: Any) -> None:
    try:
        torch.set_num_threads(1)
        limit = timedelta(seconds=seconds)
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=size, timeout=limit)
        made = work(TorchWorld(), *args)
        torch.distributed.barrier()
        answer.send((made, None))
    except BaseException:
        answer.send((None, traceback.format_exc()))
        raise

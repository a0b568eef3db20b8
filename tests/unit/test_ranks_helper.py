"""A test over ranks that goes wrong fails, and does not hang."""

import time

import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from tests.ranks import run_ranks


def large_reports(rank, size):
    return ["x" * 100_000] * 20  # more than a pipe holds


def one_raises(rank, size):
    if rank == 1:
        raise ValueError("rank 1 fails while the other waits for it")
    torch.distributed.barrier()


def sleep(rank, size):
    time.sleep(3600)


def test_what_ranks_report_may_be_larger_than_a_pipe_holds():
    assert [len(found) for found in run_ranks(large_reports, 2)] == [20, 20]


def test_a_rank_that_raises_is_reported_while_others_wait_for_it():
    with pytest.raises(ProcessRaisedException, match="rank 1 fails while the other waits"):
        run_ranks(one_raises, 2)


def test_ranks_that_do_not_end_are_named():
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] of 2 did not end within 1 s"):
        run_ranks(sleep, 2, seconds=1)

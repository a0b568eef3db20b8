"""A test over ranks ends, and says why, whatever its ranks do."""

from __future__ import annotations

import os
import time

import pytest
import torch

from tests.ranks import on_ranks


def large(ranks):
    """More than a pipe holds, so that a rank that is joined before it is read would never end."""
    total = float(ranks.total(torch.tensor(1.0 + ranks.rank)))
    return total, "x" * 300_000


def one_fails(ranks):
    if ranks.rank == 1:
        raise ValueError("the second is wrong")
    return ranks.share_text("waits for the other")


def one_dies(ranks):
    if ranks.rank == 1:
        os._exit(3)
    return float(ranks.total(torch.ones(())))


def one_hangs(ranks):
    if ranks.rank == 1:
        time.sleep(3600)
    return float(ranks.total(torch.ones(())))


def test_every_rank_answers_in_order_however_much_it_says():
    assert [(total, len(text)) for total, text in on_ranks(2, large)] == [(3.0, 300_000)] * 2


@pytest.mark.parametrize(
    ("work", "seconds", "says"),
    [
        (one_fails, 100, "ValueError: the second is wrong|Connection closed by peer"),
        (one_dies, 100, "rank 1 failed: it ended without an answer|Connection closed by peer"),
        (one_hangs, 6, r"no answer in time from the ranks \[0, 1\]"),
    ],
)
def test_a_rank_that_fails_dies_or_hangs_fails_the_test_in_time(work, seconds, says):
    with pytest.raises(AssertionError, match=says):
        on_ranks(2, work, seconds=seconds)

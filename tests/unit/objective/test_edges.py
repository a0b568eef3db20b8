"""The objective at its edges: columns far below the others, blocks that hold less than a row."""

from __future__ import annotations

import torch

from gare.objective import info_nce
from gare.objective.increments import cuts


def test_a_video_that_every_text_scores_far_below_the_others_keeps_the_loss_right():
    logits = 20 * torch.eye(4)
    logits[:, 2] -= 1000
    value = info_nce(logits)
    plain = logits.double()
    rows, columns = plain.log_softmax(1).diagonal(), plain.log_softmax(0).diagonal()
    torch.testing.assert_close(value.double(), -(rows + columns).mean() / 2, rtol=1e-5, atol=1e-4)


def test_blocks_hold_one_text_at_least_and_cover_all():
    assert cuts(3, 100, 100, 1) == [(0, 1), (1, 2), (2, 3)]
    assert cuts(5, 2, 8, 32) == [(0, 2), (2, 4), (4, 5)]
    assert cuts(5, 8, 2, 128) == [(0, 2), (2, 4), (4, 5)]

"""Retrieval metrics against an independent brute force, ties and NaN included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.errors import RunError
from gare.retrieval.metrics import retrieval_metrics, text_to_video_ranks, video_to_text_ranks


def brute_force(scores, owner):
    t2v = []
    for n, own in enumerate(owner):
        before = [v for v in range(scores.shape[1]) if v != own and scores[n, v] >= scores[n, own]]
        t2v.append(len(before) + 1)
    v2t = []
    for v in sorted(set(owner.tolist())):
        others = [scores[n, v] for n in range(len(owner)) if owner[n] != v]
        best = max(scores[n, v] for n in range(len(owner)) if owner[n] == v)
        v2t.append(sum(s >= best for s in others) + 1)
    return t2v, v2t


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_ranks_equal_brute_force_with_ties(seed, texts, videos, levels):
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (texts, videos)).astype(np.float32)
    owner = random.integers(0, videos, texts)
    t2v, v2t = brute_force(scores, owner)
    assert text_to_video_ranks(scores, owner).tolist() == t2v
    assert video_to_text_ranks(scores, owner).tolist() == v2t


def test_a_constant_score_matrix_earns_the_worst_rank():
    metrics = retrieval_metrics(np.zeros((4, 4), np.float32), np.arange(4))
    assert metrics["t2v/R@1"] == 0
    assert metrics["t2v/MnR"] == 4


def test_perfect_scores_earn_100_percent():
    metrics = retrieval_metrics(np.eye(3, dtype=np.float32), np.arange(3))
    assert metrics["t2v/R@1"] == metrics["v2t/R@1"] == 100
    assert metrics["t2v/MdR"] == metrics["v2t/MnR"] == 1


def test_own_captions_do_not_push_each_other_down():
    scores = np.array([[0.9, 0.0], [0.8, 0.1], [0.1, 0.5]], np.float32)
    assert video_to_text_ranks(scores, np.array([0, 0, 1])).tolist() == [1, 1]


def test_nan_is_an_error():
    scores = np.eye(3, dtype=np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(RunError, match="1 of 9 scores are NaN"):
        retrieval_metrics(scores, np.arange(3))


def test_no_queries_is_an_error():
    with pytest.raises(RunError, match="no queries"):
        retrieval_metrics(np.zeros((0, 3), np.float32), np.zeros(0, int))

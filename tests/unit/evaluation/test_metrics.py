"""Ranks and metrics against an independent brute force: ties, infinities, NaN, many captions, every way of tiling."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.errors import RunError
from gare.evaluation.metrics.ranking import METRIC_NAMES, Ranking, tiled_rankings
from tests.reference import rankings

TIES = ["pessimistic", "optimistic", "mean"]


def rank_among(own, others, ties):
    pessimistic = optimistic = 1
    for other in others:
        pessimistic += other >= own
        optimistic += other > own
    return {"pessimistic": pessimistic, "optimistic": optimistic, "mean": (pessimistic + optimistic) / 2}[ties]


def brute_force(scores, owner, ties):
    """Ranks by name, a query and a comparison at a time."""
    rows, owner = scores.tolist(), owner.tolist()
    captioned = sorted(set(owner))
    best = {(u, v): max(row[v] for row, own in zip(rows, owner, strict=True) if own == u)
            for u in captioned for v in captioned}  # fmt: skip
    t2v = [
        rank_among(row[own], [score for v, score in enumerate(row) if v != own], ties)
        for row, own in zip(rows, owner, strict=True)
    ]
    v2t = [
        rank_among(best[v, v], [row[v] for row, own in zip(rows, owner, strict=True) if own != v], ties)
        for v in captioned
    ]
    grouped = [rank_among(best[v, v], [best[u, v] for u in captioned if u != v], ties) for v in captioned]
    return {"t2v": t2v, "v2t": v2t, "v2t_grouped": grouped}


def as_lists(found):
    return {name: ranking.ranks.tolist() for name, ranking in found.items()}


def some_case(seed, texts, videos, levels):
    """Scores of few levels, infinities among them, and owners that leave videos without captions."""
    random = np.random.default_rng(seed)
    values = np.array([0.25, -1, np.inf, -np.inf, 3, 2][:levels], np.float32)
    return values[random.integers(0, levels, (texts, videos))], random.integers(0, videos, texts)


@settings(max_examples=1000)
@given(
    st.integers(0, 2**20),
    st.integers(1, 12),
    st.integers(1, 8),
    st.integers(1, 6),
    st.sampled_from(TIES),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_ranks_equal_brute_force_whole_and_in_tiles(seed, texts, videos, levels, ties, rows, columns):
    scores, owner = some_case(seed, texts, videos, levels)
    wanted = brute_force(scores, owner, ties)
    found = as_lists(rankings(scores, owner, ties=ties))
    assert found == {name: wanted[name] for name in found}
    assert "v2t_grouped" in found or wanted["v2t_grouped"] == wanted["v2t"]
    order = np.argsort(owner, kind="stable")
    by_video = scores[order]
    tiles = tiled_rankings(lambda r, c: by_video[r, c], owner[order], videos, ties=ties, rows=rows, columns=columns)
    wanted["t2v"] = [wanted["t2v"][i] for i in order]
    assert as_lists(tiles) == {name: wanted[name] for name in found}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("captions", [1, 7, 300])
def test_counts_beyond_a_byte_and_groups_across_blocks_are_exact(captions, ties):
    random = np.random.default_rng(captions)
    owner = np.arange(601) // captions
    scores = random.integers(0, 20, (601, 2100)).astype(np.float32)
    own = scores[np.arange(601), owner][:, None]
    low, high = 1 + (scores > own).sum(axis=1), (scores >= own).sum(axis=1)
    wanted = {"pessimistic": high, "optimistic": low, "mean": (low + high) / 2}[ties]
    whole = rankings(scores, owner, ties=ties)
    assert whole["t2v"].ranks.tolist() == wanted.tolist()
    for rows, columns in ((97, 2100), (601, 311), (256, 2041)):
        tiles = tiled_rankings(lambda r, c: scores[r, c], owner, 2100, ties=ties, rows=rows, columns=columns)
        assert as_lists(tiles) == as_lists(whole)
    groups = np.stack([scores[owner == v].max(axis=0) for v in range(owner[-1] + 1)])
    as_one_caption = rankings(groups, np.arange(len(groups)), ties=ties)["v2t"]
    assert whole["v2t_grouped" if captions > 1 else "v2t"].ranks.tolist() == as_one_caption.ranks.tolist()


def test_each_tile_is_asked_for_once_and_those_with_own_pairs_once_before():
    asked, random = [], np.random.default_rng(0)
    scores, owner = random.random((40, 30)), np.sort(random.integers(0, 30, 40))

    def tile(rows, columns):
        asked.append((rows.start, columns.start))
        return scores[rows, columns]

    tiled_rankings(tile, owner, 30, rows=10, columns=10)
    grid = [(r, c) for r in range(0, 40, 10) for c in range(0, 30, 10)]
    with_own = [(r, c) for r, c in grid if (owner[r : r + 10] // 10 == c // 10).any()]
    assert asked == with_own + grid
    assert len(with_own) < len(grid)


@pytest.mark.parametrize("captions", [1, 3])
def test_memory_grows_neither_with_the_matrix_nor_with_texts_x_videos(captions):
    random, size = np.random.default_rng(0), 3000
    scores, owner = random.random((size, size), np.float32), np.arange(size) // captions
    tracemalloc.start()
    tiled_rankings(lambda r, c: scores[r, c], owner, size, ties="mean")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * size / 3  # a third of what one byte for every pair takes


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_scores_of_any_number_type_are_compared_as_they_are(dtype):
    scores = np.array([[3, 2, 1], [2, 2, 0], [9, 1, 1]], dtype)
    assert rankings(scores, np.array([0, 1, 2]))["t2v"].ranks.tolist() == [1, 2, 3]


def test_a_constant_score_matrix_earns_the_worst_rank_unless_ties_are_shared():
    scores, owner = np.zeros((4, 4), np.float32), np.arange(4)
    metrics = rankings(scores, owner)["t2v"].metrics()
    assert metrics["t2v/R@1"] == 0
    assert metrics["t2v/MnR"] == 4
    assert rankings(scores, owner, ties="mean")["t2v"].metrics()["t2v/MdR"] == 2.5
    assert rankings(scores, owner, ties="optimistic")["v2t"].metrics()["v2t/R@1"] == 100


def test_perfect_scores_earn_100_percent():
    found = rankings(np.eye(3, dtype=np.float32), np.arange(3))
    metrics = found["t2v"].metrics() | found["v2t"].metrics()
    assert metrics["t2v/R@1"] == metrics["v2t/R@1"] == 100
    assert metrics["t2v/MdR"] == metrics["v2t/MnR"] == 1
    assert set(metrics) == set(METRIC_NAMES)


def test_captions_of_one_video_count_once_each_or_once_together():
    scores = np.array([[0.9, 0.0, 0.0], [0.1, 0.9, 0.0], [0.95, 0.8, 0.0], [0.92, 0.1, 0.9]], np.float32)
    found = rankings(scores, np.array([0, 0, 2, 2]))
    assert found["v2t"].ranks.tolist() == [3, 1]  # two captions of video 2 stand before the best own one
    assert found["v2t_grouped"].ranks.tolist() == [2, 1]
    assert found["v2t"].video.tolist() == found["v2t_grouped"].video.tolist() == [0, 2]
    assert [ranking.sizes() for ranking in found.values()] == [
        {"t2v/queries": 4, "t2v/gallery": 3},
        {"v2t/queries": 2, "v2t/gallery": 4},
        {"v2t_grouped/queries": 2, "v2t_grouped/gallery": 2},
    ]


def test_own_captions_do_not_push_each_other_down():
    scores = np.array([[0.9, 0.0], [0.8, 0.1], [0.1, 0.5]], np.float32)
    assert rankings(scores, np.array([0, 0, 1]))["v2t"].ranks.tolist() == [1, 1]


@pytest.mark.parametrize("place", [(1, 2), (1, 1)])
def test_nan_is_an_error(place):
    scores = np.eye(3, dtype=np.float32)
    scores[place] = np.nan
    with pytest.raises(RunError, match="1 of 9 scores are NaN"):
        rankings(scores, np.arange(3))
    with pytest.raises(RunError, match="1 of 9 scores are NaN"):
        tiled_rankings(lambda r, c: scores[r, c], np.arange(3), 3, rows=2, columns=2)


def test_no_queries_is_an_error():
    with pytest.raises(RunError, match="no queries"):
        rankings(np.zeros((0, 3), np.float32), np.zeros(0, int))
    with pytest.raises(RunError, match="no queries"):
        Ranking("t2v", np.zeros(0, int), np.zeros(0, int), 3).metrics()


@pytest.mark.parametrize("owner", [[1, 0], [0, 3], [-1, 0]])
def test_texts_out_of_order_or_of_no_video_are_refused_in_tiles(owner):
    with pytest.raises(ValueError, match="ascending columns of a gallery of 3"):
        tiled_rankings(lambda r, c: np.zeros((2, 3))[r, c], np.array(owner), 3)


def test_scores_of_another_shape_than_asked_for_are_refused():
    with pytest.raises(ValueError, match="shape"):
        tiled_rankings(lambda *_: np.zeros((1, 3)), np.arange(2), 3)

"""Dual softmax and querybank normalisation against their definitions, a number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gare.common.errors import InputError
from gare.evaluation import postprocess
from gare.evaluation import scorer as scores_module
from gare.evaluation.scorer import Scores
from tests import reference
from tests.made_up import TableScorer
from tests.reference import rankings


@pytest.fixture(autouse=True, params=[2, 3, 2040])
def side(request, monkeypatch):
    """Tiles of so many texts and videos, and a bank looked at in as many scores."""
    monkeypatch.setattr(scores_module, "SIDE", request.param)
    monkeypatch.setattr(postprocess, "BANK_SCORES", 4 * request.param)


def tiles_of(scores):
    return Scores(TableScorer(scores), scores, scores, scores.shape)


def in_tiles(view, scores):
    """The scores that a view makes, tile by tile."""
    made = np.empty(scores.shape)
    for texts, videos, tile in tiles_of(scores).tiles():
        made[texts, videos] = view(tile, texts, videos)
    return made


def dual_softmax(scores, scale):
    views = postprocess.dual_softmax(*postprocess.powers(tiles_of(scores), scale))
    return in_tiles(views["t2v"], scores), in_tiles(views["v2t"], scores)


def querybank(scores, bank, beta, direction="t2v"):
    known = postprocess.bank_powers(lambda b, items: bank[b, items], *bank.shape, beta)
    raw = postprocess.Powers(scores.shape[direction == "v2t"], beta)
    for texts, videos, tile in tiles_of(scores).tiles():
        if direction == "t2v":
            raw.add(texts, videos.start, tile)
        else:
            raw.add(videos, texts.start, tile.T)
    return in_tiles(postprocess.querybank(raw, *known, direction), scores)


def cosines(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_dual_softmax_is_its_definition(scale):
    scores = cosines(0, 5, 4)
    for_texts, for_videos = dual_softmax(scores, scale)
    rows = scores.astype(float).tolist()
    for n, row in enumerate(rows):
        for v, cosine in enumerate(row):
            power = math.exp(scale * cosine)
            over_texts = sum(math.exp(scale * other[v]) for other in rows)
            over_videos = sum(math.exp(scale * other) for other in row)
            of_texts, of_videos = (power / over_texts, power / over_videos) if cosine > 0 else (1, 1)
            assert for_texts[n, v] == pytest.approx(cosine * of_texts, rel=1e-12)
            assert for_videos[n, v] == pytest.approx(cosine * of_videos, rel=1e-12)


def test_dual_softmax_does_not_lift_the_unlikeliest_of_the_negative():
    scores = np.array([[-0.1, -0.2, -0.9, 0.3]], np.float32)
    for_texts, for_videos = dual_softmax(np.vstack([scores, scores]), 50.0)
    assert np.argsort(-for_texts[0]).tolist() == np.argsort(-for_videos[0]).tolist() == [3, 0, 1, 2]


def test_dual_softmax_takes_a_hub_down():
    scores = np.array([[0.50, 0.1, 0.2], [0.62, 0.6, 0.1], [0.64, 0.2, 0.6], [0.9, 0.1, 0.1]], np.float32)
    owner = np.array([0, 1, 2, 0])  # video 0 is near to every text
    raw = rankings(scores, owner)["t2v"].ranks.tolist()
    corrected = rankings(dual_softmax(scores, 20.0)[0], owner)["t2v"].ranks.tolist()
    assert raw == [1, 2, 2, 1]
    assert corrected[1:] == [1, 1, 1]


def test_scores_far_below_the_best_stay_apart():
    scores = np.array([[-1.0, -0.9, 1.0], [1.0, 1.0, 1.0]], np.float32)  # float32 has no exp(-200)
    for_texts, _ = dual_softmax(scores, 100.0)
    assert len(set(for_texts[0].tolist())) == 3
    assert (for_texts != 0).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, 400.0])
def test_a_scale_that_cannot_be_computed_is_refused(scale):
    with pytest.raises(InputError, match="scale"):
        dual_softmax(np.array([[1.0, -1.0]]), scale)


def by_definition(scores, bank, beta):
    active = {max(range(len(row)), key=row.__getitem__) for row in bank}
    result = []
    for row in scores:
        if max(range(len(row)), key=row.__getitem__) in active:
            sums = [sum(math.exp(beta * other[v]) for other in bank) for v in range(len(row))]
            result.append([math.exp(beta * score) / total for score, total in zip(row, sums, strict=True)])
        else:
            result.append(row)
    return np.array(result)


@pytest.mark.parametrize("seed", range(5))
def test_querybank_is_its_definition(seed):
    scores, bank = cosines(seed, 12, 7), cosines(seed + 100, 3, 7)
    found = querybank(scores, bank, 20.0)
    raw, known = scores.astype(float).tolist(), bank.astype(float).tolist()
    assert found == pytest.approx(by_definition(raw, known, 20.0), rel=1e-10)
    kept = (found == scores).all(axis=1)
    assert kept.any()  # both kinds of rows were there
    assert not kept.all()


def test_of_items_that_tie_for_the_first_place_the_first_counts():
    bank = np.array([[0.5, 0.5, 0.0]])
    scores = np.array([[0.2, 0.1, 0.0], [0.0, 0.3, 0.1], [0.4, 0.4, 0.1]], np.float32)
    changed = (querybank(scores, bank, 10.0) != scores).any(axis=1)
    assert changed.tolist() == [True, False, True]


def test_a_large_beta_is_computed_where_plain_powers_would_overflow():
    scores, bank = 3 + cosines(0, 4, 5), 3 + cosines(1, 6, 5)
    found = querybank(scores, bank, 300.0)
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize("beta", [0.0, -3.0, math.nan, math.inf, 2000.0])
def test_a_beta_that_cannot_be_computed_is_refused(beta):
    with pytest.raises(InputError, match="beta"):
        querybank(np.array([[1.0, -1.0]]), np.array([[1.0, 0.5]]), beta)


def test_an_empty_bank_is_refused():
    with pytest.raises(InputError, match="An empty query bank"):
        querybank(cosines(0, 4, 5), np.zeros((0, 5), np.float32), 20.0)


@pytest.mark.parametrize("seed", range(4))
def test_tiles_give_what_whole_matrices_give(seed):
    scores, by_texts, by_videos = cosines(seed, 31, 17).round(1), cosines(seed + 50, 6, 17), cosines(seed + 90, 5, 31)
    for found, whole in zip(dual_softmax(scores, 50.0), reference.dual_softmax(scores, 50.0), strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-13, atol=0)
    np.testing.assert_allclose(
        querybank(scores, by_texts, 20.0), reference.querybank(scores, by_texts, 20.0), rtol=1e-12
    )
    found = querybank(scores, by_videos, 20.0, "v2t")
    np.testing.assert_allclose(found, reference.querybank(scores.T, by_videos, 20.0).T, rtol=1e-12)


def test_equal_videos_stay_equal_so_that_ties_are_ties():
    scores = cosines(3, 40, 9)
    scores[:, 7] = scores[:, 1]
    for_texts, _ = dual_softmax(scores, 100.0)
    assert (for_texts[:, 7] == for_texts[:, 1]).all()


def test_a_score_that_is_no_number_leaves_nothing_to_correct_with():
    scores = cosines(0, 4, 5)
    scores[1, 2] = np.nan
    assert postprocess.powers(tiles_of(scores), 20.0) is None

"""The first stage: what is distilled, what it holds of the exact answer, and which queries it does not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gare.common.errors import InputError
from gare.retrieval import stage
from gare.retrieval.stage import Anchors, Basis, Codes, Measure, Recall, load_basis, load_codes, save_basis, save_codes
from gare.scoring.factors import ScoreStats, Texts, Videos
from gare.scoring.increment.compact import CompactFactors
from tests.unit.evaluation.test_factorised import make_head

DIM, VIDEOS = 16, 400


@pytest.fixture(scope="module")
def made():
    """Anchors, held-out texts, exact scores of both [V, n] and a basis, of a head with an increment."""
    torch.manual_seed(0)
    head, frames = make_head(DIM, 0.15), torch.randn(VIDEOS, 3, DIM) + torch.randn(VIDEOS, 1, DIM)
    factors = CompactFactors(head)
    gallery = factors.build(Videos(frames, torch.ones(VIDEOS, 3, dtype=torch.bool)))
    fit, held = torch.randn(600, DIM) + 0.5, torch.randn(60, DIM) + 0.5
    scores = factors.score(gallery, Texts(torch.cat([fit, held])), ScoreStats()).T
    return fit, held, scores[:, :600], scores[:, 600:], Basis.of(fit, scores[::3, :600])


def test_few_candidates_hold_the_exact_answer_of_a_large_gallery(made):
    _, held, scores, exact, basis = made
    codes = basis.codes(scores)
    queries, leverage = basis.queries(held)
    measure = Measure(queries, leverage, 30)
    for rows in torch.arange(VIDEOS).split(90):
        measure.add(exact[rows].T, codes[rows])
    recall = measure.recall([codes[slice(0, 250)], codes[slice(250, VIDEOS)]])
    approximate = codes.scores(queries)
    for kind, texts in ((recall.captions, slice(0, 30)), (recall.fragments, slice(30, 60))):
        for count, share in zip(recall.candidates, kind, strict=True):
            kept = approximate[texts].topk(count, dim=1).indices
            best = exact.T[texts].topk(10, dim=1).indices
            expected = (best[:, :, None] == kept[:, None]).any(-1).double().mean()
            assert share == pytest.approx(float(expected), abs=1e-5)
    assert recall.at(100) > 0.9
    assert recall.captions[-1] == recall.fragments[-1] == 1.0


def test_int8_queries_in_two_parts_lose_nothing_but_what_the_codes_do(made):
    _, held, scores, _, basis = made
    codes, (queries, _) = basis.codes(scores), basis.queries(held)
    plain = queries @ (codes.codes.float() * codes.scale[:, None]).T
    assert (codes.scores(queries) - plain).abs().max() <= 1e-4 * plain.abs().max()


def test_without_the_fast_product_of_torch_the_scores_are_the_same(made, monkeypatch):
    _, held, scores, _, basis = made
    codes, (queries, _) = basis.codes(scores), basis.queries(held)
    fast = codes.scores(queries)
    monkeypatch.delattr(torch, "_int_mm", raising=False)
    assert torch.allclose(codes.scores(queries), fast, rtol=1e-6)


def test_texts_far_from_the_anchors_have_more_leverage_than_two_percent_of_the_others(made):
    _, held, _, _, basis = made
    far = basis.queries(torch.randn(50, DIM) * 6)[1]
    limit = torch.quantile(basis.queries(held)[1], 1 - stage.FALSE_FLAGS)
    assert (far > limit).double().mean() >= 0.95


def test_the_number_of_candidates_follows_the_recall_the_list_and_the_growth_of_the_index():
    recall = Recall(1000, [20, 50, 100, 1000], [0.9, 0.99, 1.0, 1.0], [0.8, 0.95, 0.99, 1.0], 3.0)
    assert recall.at(60) == 0.95
    assert recall.at(10) == 0.0
    assert recall.choose(10, 1000) == recall.choose(1, 900) == 100
    assert recall.choose(25, 1000) == 300
    assert recall.choose(10, 32_000) == 800
    assert Recall(1000, [20, 1000], [0.5, 1.0], [0.5, 1.0], 3.0).choose(10, 1000) == 1000


def test_anchors_are_half_fragments_and_those_to_measure_with_are_others():
    captions = [f"word{n} of number {n} in a row" for n in range(3000)] * 2
    anchors = Anchors.of(captions)
    assert len(anchors.fit) == stage.ANCHORS
    assert len(anchors.captions) == len(anchors.fragments) == stage.HELD_OUT // 2
    whole, parts = anchors.fit[: stage.ANCHORS // 2], anchors.fit[stage.ANCHORS // 2 :]
    assert set(whole) <= set(captions)
    assert all(part in text and len(part.split()) <= 3 for text, part in zip(whole, parts, strict=True))
    assert not set(whole) & set(anchors.captions)
    assert Anchors.of(reversed(captions)) == anchors
    assert Anchors.of(captions[: stage.FEWEST_TEXTS - 1]) is None


def test_bases_and_codes_come_back_as_they_were_written(made, tmp_path):
    _, _, scores, _, basis = made
    codes, anchors = basis.codes(scores), Anchors(["a"] * 600, ["b"], ["c"])
    save_basis(tmp_path / "b", basis, anchors)
    save_codes(tmp_path / "c", codes)
    back, texts = load_basis(tmp_path / "b", DIM)
    assert texts == anchors
    assert torch.equal(back.fit, basis.fit)
    assert torch.equal(load_codes(tmp_path / "c", VIDEOS, codes.codes.shape[1]).codes, codes.codes)


def test_a_basis_of_other_sizes_or_numbers_is_refused(made, tmp_path):
    basis, path = made[4], tmp_path / "basis"
    for other in (
        replace(basis, mean=torch.zeros(DIM + 1)),
        replace(basis, centres=basis.centres[0]),
        replace(basis, fit=basis.fit[1:]),
        replace(basis, width=torch.tensor(float("nan"))),
        replace(basis, white=basis.white.double()),
    ):
        save_basis(path, other, Anchors(["a"] * 600, ["b"], ["c"]))
        with pytest.raises(InputError, match="does not hold the basis"):
            load_basis(path, DIM)


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "fewer"])
def test_damaged_bases_and_codes_name_their_file(made, tmp_path, damage):
    path = tmp_path / "file"
    save_codes(path, Codes(torch.zeros(3, 4, dtype=torch.int8), torch.ones(3)))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    elif damage == "gone":
        path.unlink()
    elif damage == "other":
        path.write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(InputError, match=str(path)):
        load_codes(path, 4, 4)
    with pytest.raises(InputError, match=str(path)):
        load_basis(path, DIM)

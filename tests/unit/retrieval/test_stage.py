"""The first stage: what is distilled, what it holds of the exact answer, and which queries it does not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gare.common.errors import InputError
from gare.retrieval import anchors as texts_of
from gare.retrieval import recall as recalls
from gare.retrieval.anchors import Anchors
from gare.retrieval.codes import Codes, Lists, SegmentCodes, load_lists, save_lists
from gare.retrieval.recall import Asked, Best, Recall
from gare.retrieval.stage import Basis, load_basis, save_basis
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
    asked, best = Asked(queries, leverage, torch.zeros(60), 30), None
    for rows in torch.arange(VIDEOS).split(90):
        some = Best.of(exact[rows].T, codes[rows].scores(queries), int(rows[0]))
        best = some if best is None else best.merge(some)
    assert torch.equal(best.numbers, exact.T.topk(10, dim=1).indices)
    recall = asked.recall(best, [codes[slice(0, 250)], codes[slice(250, VIDEOS)]], None, None)
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


def test_texts_far_from_the_anchors_have_more_leverage_than_nearly_all_the_others(made):
    _, held, _, _, basis = made
    far = basis.queries(torch.randn(50, DIM) * 6)[1]
    limit = torch.quantile(basis.queries(held)[1], 1 - recalls.FALSE_FLAGS)
    assert (far > limit).double().mean() >= 0.95


def test_the_number_of_candidates_follows_the_recall_the_list_and_the_growth_of_the_index():
    recall = Recall(1000, [20, 50, 500, 1000], [0.9, 0.99, 1.0, 1.0], [0.8, 0.95, 0.99, 1.0], 3.0)
    assert recall.at(60) == 0.95
    assert recall.at(10) == 0.0
    assert recall.choose(10, 1000) == recall.choose(1, 900) == 500
    assert recall.choose(25, 1000) == 1500
    assert recall.choose(10, 32_000) == 4000
    assert Recall(1000, [20, 1000], [1.0, 1.0], [1.0, 1.0], 3.0).choose(10, 1000) == recalls.LEAST
    assert Recall(1000, [20, 1000], [0.5, 1.0], [0.5, 1.0], 3.0).choose(10, 1000) == 1000


def test_anchors_are_half_fragments_and_those_to_measure_with_are_others():
    captions = [f"word{n} of number {n} in a row" for n in range(3000)] * 2
    anchors = Anchors.of(captions)
    assert len(anchors.fit) == texts_of.ANCHORS
    assert len(anchors.captions) == len(anchors.fragments) == texts_of.HELD_OUT // 2
    whole, parts = anchors.fit[: texts_of.ANCHORS // 2], anchors.fit[texts_of.ANCHORS // 2 :]
    assert set(whole) <= set(captions)
    assert all(part in text and len(part.split()) <= 3 for text, part in zip(whole, parts, strict=True))
    assert not set(whole) & set(anchors.captions)
    assert len(set(anchors.strange)) > 500
    assert not set(" ".join(anchors.strange).split()) & set(" ".join(captions).split())
    assert anchors.fitted == anchors.fit + anchors.strange
    assert Anchors.of(reversed(captions)) == anchors
    assert Anchors.of(captions[: texts_of.FEWEST_TEXTS - 1]) is None


def test_codes_come_back_from_their_lists_as_they_went_in(made, tmp_path):
    codes = made[4].codes(made[2])
    lists = Lists.of(codes[torch.arange(0, VIDEOS, 2)], 20)
    grouped, rank = SegmentCodes.of(codes, lists), codes.codes.shape[1]
    assert torch.equal(grouped.of_videos(torch.arange(VIDEOS)).codes, codes.codes)
    query = codes.vectors()[7]
    rows, scores = grouped.scan(query)
    assert torch.equal(scores, codes.scores(query[None])[0][rows.long()])
    some = torch.tensor([3, 11])
    rows, inside = grouped.inside(some)
    assert set(rows.tolist()) == set(torch.isin(lists.assign(codes), some).nonzero()[:, 0].tolist())
    assert torch.equal(inside.codes, codes.codes[rows.long()])
    grouped.save(tmp_path / "codes")
    save_lists(tmp_path / "lists", lists)
    back = SegmentCodes.load(tmp_path / "codes", VIDEOS, rank, len(load_lists(tmp_path / "lists", rank)))
    assert torch.equal(back.rows, grouped.rows)


def test_a_video_is_in_the_list_of_the_nearest_direction_and_few_lists_hold_the_best(made, monkeypatch):
    monkeypatch.setattr(recalls, "LOSS", 0.2)  # random videos are in no groups
    monkeypatch.setattr(recalls, "LEAST", 20)
    _, held, scores, exact, basis = made
    codes, (queries, leverage) = basis.codes(scores), basis.queries(held)
    lists = Lists.of(codes, 20)
    place = (codes.vectors() @ lists.centres.T).argmax(1)
    assert torch.equal(lists.assign(codes), place)
    means = torch.stack([codes.vectors()[place == number].mean(0) for number in range(20)])
    assert torch.allclose(lists.means, means, atol=1e-6)
    best = Best.of(exact.T, codes.scores(queries), 0)
    own = lists.assign(codes)[best.numbers]
    recall = Asked(queries, leverage, torch.zeros(60), 30).recall(best, [codes], lists, codes[best.numbers.reshape(-1)])
    assert 0 < recall.probes <= 5
    order = (queries @ lists.means.T).argsort(dim=1, descending=True)
    for count, captions, fragments in zip(recall.candidates, recall.captions, recall.fragments, strict=True):
        probes = recall.lists(count, 20) or 20
        inside = (own[:, :, None] == order[:, None, :probes]).any(-1)
        kept = codes.scores(queries).topk(count, dim=1).indices
        found = (inside & (best.numbers[:, :, None] == kept[:, None]).any(-1)).double().mean(1)
        assert captions == pytest.approx(float(found[:30].mean()), abs=1e-5)
        assert fragments == pytest.approx(float(found[30:].mean()), abs=1e-5)


def test_more_candidates_read_more_lists_until_all_are_read():
    recall = Recall(1000, [20, 200, 1000], [0.9, 1.0, 1.0], [0.9, 1.0, 1.0], 3.0, probes=3)
    assert [recall.lists(count, 40) for count in (10, 200, 400, 600, 700)] == [3, 3, 6, 9, None]
    assert replace(recall, probes=0).lists(200, 40) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows, starts: (rows[:-1], starts),
        lambda rows, starts: (rows.clone().fill_(3), starts),
        lambda rows, starts: (rows + 1, starts),
        lambda rows, starts: (rows - 1, starts),
        lambda rows, starts: (rows, starts[:-1]),
        lambda rows, starts: (rows, starts.flip(0)),
        lambda rows, starts: (rows, starts + 1),
        lambda rows, starts: (rows.long(), starts),
        lambda _, starts: (None, starts),
    ],
)
def test_lists_that_do_not_hold_each_video_once_are_refused(tmp_path, wrong):
    codes = Codes(torch.zeros(6, 4, dtype=torch.int8), torch.ones(6))
    rows, starts = wrong(torch.randperm(6, dtype=torch.int32), torch.tensor([0, 2, 2, 6]))
    tensors = {"codes": codes.codes, "scale": codes.scale, "rows": rows, "starts": starts}
    save_file({name: x for name, x in tensors.items() if x is not None}, tmp_path / "codes")
    with pytest.raises(InputError, match="does not hold the codes"):
        SegmentCodes.load(tmp_path / "codes", 6, 4, 3)


@pytest.mark.parametrize(
    "means",
    [
        torch.ones(()),
        torch.ones(3),
        torch.ones(0, 4),
        torch.ones(2, 4),
        torch.full((3, 4), torch.nan),
        torch.ones(3, 5),
    ],
)
def test_centres_that_are_none_are_refused(tmp_path, means):
    save_file({"centres": torch.ones(3, 4), "means": means}, tmp_path / "lists")
    with pytest.raises(InputError, match="does not hold the lists"):
        load_lists(tmp_path / "lists", 4)


def test_a_query_of_words_that_no_caption_has_is_unknown_unless_captions_are_so_too(made):
    _, held, scores, exact, basis = made
    anchors = Anchors(["a red Square, low", "blue"], ["a"], ["b"], ["zork"])
    assert anchors.unknown_words(["A red blue", "red zork", "zork", "?"]) == [0, 0.5, 1, 0]
    codes, (queries, leverage) = basis.codes(scores), basis.queries(held)
    best = Best.of(exact.T, codes.scores(queries), 0)

    def limit(*shares):
        words = torch.cat([torch.zeros(60 - len(shares)), torch.tensor(shares)])
        return Asked(queries, leverage, words, 30).recall(best, [codes], None, None)

    assert [limit().words, limit(0.4).words, limit(0.6).words, limit(0.8).words] == [0.5, 0.5, 0.75, 1.0]
    assert limit(1.0).words > 1
    assert [limit().is_unknown(0, 0.4), limit().is_unknown(0, 0.5), limit().is_unknown(99, 0)] == [False, True, True]


def test_bases_and_codes_come_back_as_they_were_written(made, tmp_path):
    _, _, scores, _, basis = made
    codes, anchors = basis.codes(scores), Anchors(["a"] * 600, ["b"], ["c"])
    save_basis(tmp_path / "b", basis, anchors)
    SegmentCodes(codes).save(tmp_path / "c")
    back, texts = load_basis(tmp_path / "b", DIM)
    assert texts == anchors
    assert torch.equal(back.fit, basis.fit)
    assert torch.equal(SegmentCodes.load(tmp_path / "c", VIDEOS, codes.codes.shape[1], None).codes.codes, codes.codes)


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
    SegmentCodes(Codes(torch.zeros(3, 4, dtype=torch.int8), torch.ones(3))).save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    elif damage == "gone":
        path.unlink()
    elif damage == "other":
        path.write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(InputError, match=str(path)):
        SegmentCodes.load(path, 4, 4, None)
    with pytest.raises(InputError, match=str(path)):
        load_basis(path, DIM)

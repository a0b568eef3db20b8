"""The report page: true, whole, harmless, and small."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from gare.evaluation.measure import measure
from gare.evaluation.report.content import Subject, gather, hardest_queries
from gare.evaluation.report.groups import by_attribute, shared_captions, wilson
from gare.evaluation.report.page import SECTIONS, write_report
from tests.made_up import HashScorer, TableScorer, split_of
from tests.page import HOSTILE, PLAIN, SHOWN, Page

CAPTIONS = [[f"caption {n} of video {v}" for n in range(1 + v % 3)] for v in range(40)]
SIZES = ["small", "large", "huge"]


def subject(measured, *, cut=None, frames=3, **changes):
    texts = measured.evaluation.texts
    values = {"title": "run", "split": "test", "selected": "by hand", "cautions": [], "facts": [("software", "gare")]}
    return Subject(**values | changes, frames=frames, words=9, cut=cut or [False] * len(texts))


def page_of(tmp_path, videos, scorer=None, *, hardest=12, **changes):
    measured = measure(scorer or HashScorer(), videos, resamples=30)
    path = tmp_path / "report.html"
    write_report(path, subject(measured, **changes), measured, videos, hardest=hardest)
    return Page(path.read_bytes().decode("utf-8")), measured


def attributes(values):
    return [{"size": SIZES[v % 3], "taken_from": ["train", "dev"][v % 2], "same": "x", "own": str(v)} for v in values]


def test_the_page_is_well_formed_loads_nothing_and_has_its_sections(tmp_path):
    page, measured = page_of(tmp_path, split_of(CAPTIONS, attributes(range(40))))
    assert all(load.startswith("data:image/jpeg;base64,") or load[1:] in page.ids for load in page.loads)
    assert {name for name, _ in SECTIONS} == page.ids
    assert not any(tag in {"script", "iframe", "link", "object", "form"} for tag, _ in page.tags)
    assert "http" not in (tmp_path / "report.html").read_text().replace("http-equiv", "")
    assert all(values.get("alt") for tag, values in page.tags if tag == "img")
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert all(values.get("scope") for tag, values in page.tags if tag == "th")
    recall, (low, high) = measured.metrics()["t2v/R@1"], measured.intervals["t2v/R@1"]
    assert f"first in {recall:.1f} % of cases (95 % interval {low:.1f} to {high:.1f})" in page.text
    assert "79 captions, ranked against 40 videos." in page.text
    for name in measured.answers:
        assert name in page.text


def hostile_page(tmp_path, words):
    split = split_of([[words], ["b"], [words, "c"]], [{words: words}, {words: "b"}, {}])
    split.videos[0] = type(split.videos[0])(words, words, [words], {words: words})
    table = [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]
    return page_of(
        tmp_path, split, TableScorer(table), title=words, split=words, selected=words, cautions=[words],
        facts=[(words, words)],
    )[0]  # fmt: skip


def test_hostile_names_and_captions_are_only_text(tmp_path):
    page, plain = hostile_page(tmp_path, HOSTILE), hostile_page(tmp_path, PLAIN)
    assert page.shape() == plain.shape()
    shown = [words.replace(PLAIN, SHOWN) for words in plain.words]
    assert [words for words in page.words if words.strip()] == [words for words in shown if words.strip()]
    for (_, values), (_, expected) in zip(page.tags, plain.tags, strict=True):
        assert values == {name: value.replace(PLAIN, SHOWN) for name, value in expected.items()}
    assert page.text.count(SHOWN) >= 12


def test_the_hardest_queries_are_the_worst_one_of_each_video_with_what_they_found(tmp_path):
    split = split_of(CAPTIONS)
    measured = measure(HashScorer(), split, resamples=0)
    report = gather(subject(measured), measured, split, hardest=7)
    ranks, owner = measured.answers["t2v"].ranking.ranks, measured.evaluation.owner
    worst = {v: max(ranks[owner == v]) for v in range(40)}
    assert [query.own.rank for query in report.hard] == sorted(worst.values(), reverse=True)[:7]
    assert len({query.own.strip.video_id for query in report.hard}) == 7
    for query in report.hard:
        row = measured.evaluation.texts.index(query.caption)
        scores = measured.evaluation.scores.whole()[row]
        assert query.own.rank == ranks[row]
        assert query.own.strip.video_id == f"v{owner[row]}"
        assert query.own.score == scores[owner[row]]
        order = np.argsort(-scores, kind="stable")
        places = [n for n, v in enumerate(order.tolist()) if v != owner[row]][:5]
        assert [r.strip.video_id for r in query.others] == [f"v{v}" for v in order[places]]
        assert [r.score for r in query.others] == scores[order[places]].tolist()
        assert [r.rank for r in query.others] == [n + 1 for n in places]
    page, _ = page_of(tmp_path, split, hardest=7)
    assert f"own video, rank {report.hard[0].own.rank:g}" in page.text
    assert [tag for tag, _ in page.tags].count("article") == 7


def test_queries_that_found_their_video_are_not_hard(tmp_path):
    split = split_of([["a", "b"], ["c"], ["d"]])
    table = [[2.0, 1, 0], [0, 2, 1], [0, 2, 1], [1, 0, 2]]
    measured = measure(TableScorer(table), split, resamples=0)
    assert hardest_queries(measured.answers["t2v"], 5) == [1]
    page, _ = page_of(tmp_path, split, TableScorer(np.eye(4, 3)[[0, 0, 1, 2]].tolist()))
    assert "Every caption found its video first" in page.text
    assert "No video ranks first for 2 or more captions of other videos." in page.text


def test_accuracy_by_attribute_is_a_plain_groupby(tmp_path):
    given = attributes(range(40))
    given[4] = {}
    split = split_of(CAPTIONS, given)
    measured = measure(HashScorer(), split, resamples=0)
    ranking, owner = measured.answers["t2v"].ranking, measured.evaluation.owner
    found = by_attribute(split, ranking)
    assert list(found) == ["size"]  # not taken_from, not one value, not one value per video
    hits = {}
    for rank, video in zip(ranking.ranks.tolist(), owner.tolist(), strict=True):
        hits.setdefault(given[video].get("size", "(not given)"), []).append(rank == 1)
    assert {g.name: (g.queries, g.recall) for g in found["size"]} == {
        name: (len(values), pytest.approx(100 * sum(values) / len(values))) for name, values in hits.items()
    }
    recalls = [g.recall for g in found["size"]]
    assert recalls == sorted(recalls)
    assert sum(g.videos for g in found["size"]) == 40
    assert all(low <= g.recall <= high for g in found["size"] for low, high in [g.interval])
    page, _ = page_of(tmp_path, split)
    for g in found["size"]:
        assert f"{g.name} {g.queries} {g.videos} {g.recall:.1f}" in re.sub(r" (worse|better)", "", page.text)
    bare, _ = page_of(tmp_path, split_of(CAPTIONS))
    assert "The manifest has no attribute with 2 to 30 values" in bare.text


def test_a_value_is_called_worse_only_where_its_interval_says_so(tmp_path):
    given = [{"kind": "good" if v < 30 else "bad"} for v in range(40)]
    table = np.eye(40)
    table[30:, 0] = 2
    page, _ = page_of(tmp_path, split_of([[f"t{v}"] for v in range(40)], given), TableScorer(table.tolist()))
    assert re.findall(r"(\w+) (worse|better) \d+", page.text) == [("bad", "worse"), ("good", "better")]
    few = [{"kind": "good" if v < 38 else "bad"} for v in range(40)]
    table = np.eye(40)
    table[38:, 0] = 2
    page, _ = page_of(tmp_path, split_of([[f"t{v}"] for v in range(40)], few), TableScorer(table.tolist()))
    assert re.findall(r"(\w+) (worse|better) \d+", page.text) == [("bad", "worse")]
    table = np.eye(40)[:, ::-1].copy()  # all wrong but for none: no group differs from 0 %
    page, _ = page_of(tmp_path, split_of([[f"t{v}"] for v in range(40)], few), TableScorer(table.tolist()))
    assert re.findall(r"(\w+) (worse|better) \d+", page.text) == []


def test_wilsons_interval_is_that_of_the_textbook():
    assert wilson(0.0, 28) == pytest.approx((0, 12.064), abs=0.01)
    assert wilson(0.5, 10) == pytest.approx((23.66, 76.34), abs=0.01)
    assert wilson(1.0, 1) == pytest.approx((20.65, 100), abs=0.01)


def test_the_histogram_counts_every_query_once():
    split = split_of([["x"]] + [[] for _ in range(119)])
    for rank, bucket in [(1, 0), (2, 1), (5, 1), (6, 2), (10, 2), (11, 3), (50, 3), (51, 4), (120, 4)]:
        table = [[0.5, *([1.0] * (rank - 1)), *([0.0] * (120 - rank))]]
        measured = measure(TableScorer(table), split, resamples=0)
        report = gather(subject(measured), measured, split, hardest=1)
        assert [count for _, count in report.histograms["t2v"]] == [int(n == bucket) for n in range(5)]
        assert sum(count for _, count in report.histograms["v2t"]) == 1


def test_hubs_are_the_videos_that_win_most_queries_of_others():
    split = split_of(CAPTIONS)
    measured = measure(HashScorer(), split, resamples=0)
    hubs = gather(subject(measured), measured, split, hardest=0).hubs
    first, owner = measured.evaluation.scores.whole().argmax(axis=1), measured.evaluation.owner
    wrong = Counter(first[first != owner].tolist())
    right = Counter(first[first == owner].tolist())
    assert hubs.wrong == wrong.total()
    assert [hub.wrong for hub in hubs.worst] == [n for _, n in wrong.most_common(6)]
    for hub in hubs.worst:
        video = int(hub.strip.video_id[1:])
        assert (hub.wrong, hub.right) == (wrong[video], right[video])
    taken = np.cumsum([n for _, n in wrong.most_common()])
    assert taken[hubs.half - 1] >= hubs.wrong / 2
    assert hubs.half == 1 or taken[hubs.half - 2] < hubs.wrong / 2


def test_what_the_data_cost_is_counted_and_said(tmp_path):
    split = split_of([["A cat  sits", "only here"], ["a CAT sits", "a cat sits"], ["a dog"], []], frames=[3, 1, 3, 3])
    shared, ceiling = shared_captions([c for v in split.videos for c in v.captions], np.array([0, 0, 1, 1, 2]))
    assert shared.tolist() == [True, False, True, True, False]
    assert ceiling == 80.0
    page, _ = page_of(tmp_path, split, TableScorer(np.eye(4)[[0, 0, 1, 2, 2]].tolist()), cut=[False] * 4 + [True])
    assert "R@1 cannot exceed 80.0 % here" in page.text
    assert "1 video of the gallery has no caption and is only ever a wrong answer." in page.text
    assert "captions of videos with fewer than 3 frames 2 50.0 %" in page.text
    assert "captions longer than 9 tokens, whose end is cut off 1 100.0 %" in page.text
    assert "describe another video too, word for word 3 66.7 %" in page.text
    quiet, _ = page_of(tmp_path, split_of([["a"], ["b"]]))
    assert "No caption is cut off or shared" in quiet.text


def test_pictures_are_small_and_the_page_is_too(tmp_path):
    sides = split_of(CAPTIONS, frames=[1 + v % 6 for v in range(40)], side=224)
    page, _ = page_of(tmp_path, sides)
    assert (tmp_path / "report.html").stat().st_size < 5e6  # of noise, which compresses worst
    pictures = [values for tag, values in page.tags if tag == "img"]
    assert len(pictures) == 12 * 6 + 6
    for values in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(values["src"].partition(",")[2])))
        frames = int(values["alt"].split()[0])
        assert 1 <= frames <= 4
        assert picture.size == (97 * frames - 1, 96) == (int(values["width"]), int(values["height"]))


def test_one_query_and_no_intervals_make_a_page(tmp_path):
    measured = measure(HashScorer(), split_of([["a"]]), resamples=0)
    path = tmp_path / "r.html"
    write_report(path, subject(measured), measured, split_of([["a"]]), hardest=12)
    page = Page(path.read_text())
    assert "in 100.0 % of cases: 1 caption, ranked against 1 video." in page.text
    assert "bootstrap" not in page.text

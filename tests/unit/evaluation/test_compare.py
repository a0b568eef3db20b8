"""gare compare: finds the ranks, compares the same queries only, and says what the intervals allow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gare.cli import main
from gare.evaluation.metrics.query_table import RANKS_FILE, Queries, QueryTable, write_queries
from gare.evaluation.metrics.ranking import Ranking

VIDEOS = 300
CAPTIONS = [f"caption {i}" for i in range(VIDEOS)]
IDS = [f"video{i}" for i in range(VIDEOS)]


def ranks_of(seed, share):
    random = np.random.default_rng(seed)
    return np.where(random.random(VIDEOS) < share, 1, random.integers(2, VIDEOS, VIDEOS))


def evaluation(folder, ranks, *, captions=CAPTIONS, ids=IDS, ties="pessimistic", names=("t2v", "v2t"), digest="abc",
               gallery=VIDEOS):  # fmt: skip
    """A folder as gare evaluate leaves it, its ranks of t2v given."""
    owner = np.unique(ids, return_inverse=True)[1]
    queries = {}
    for name in names:
        of = Ranking(name, ranks if name.startswith("t2v") else ranks_of(9, 0.5)[: len(ranks)], owner, gallery)
        told = list(captions) if name.startswith("t2v") else None
        queries[name] = Queries(of, list(ids), told, [[]] * len(ranks), [[]] * len(ranks))
    folder.mkdir(parents=True, exist_ok=True)
    write_queries(folder / RANKS_FILE, QueryTable("test", digest, ties, queries))
    return folder


def call(capfd, *arguments):
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, arguments)])
    out, err = capfd.readouterr()
    return ended.value.code, out, err


@pytest.fixture
def first(tmp_path):
    return evaluation(tmp_path / "first", ranks_of(0, 0.4))


def test_a_better_run_is_called_better(capfd, first, tmp_path):
    ranks = np.where(np.random.default_rng(1).random(VIDEOS) < 0.2, 1, ranks_of(0, 0.4))
    second = evaluation(tmp_path / "second", ranks)
    code, out, _ = call(capfd, first, second)
    assert code == 0
    gain = 100 * ((ranks == 1).mean() - (ranks_of(0, 0.4) == 1).mean())
    assert f"t2v/R@1: B is better by {gain:.2f} points; the 95 % interval of B - A is +" in out
    assert f"B ranks {(ranks < ranks_of(0, 0.4)).sum()} better, 0 worse" in out
    code, out, _ = call(capfd, second, first)
    assert f"t2v/R@1: A is better by {gain:.2f} points" in out


def test_runs_that_differ_by_chance_are_called_so(capfd, first, tmp_path):
    second = evaluation(tmp_path / "second", ranks_of(3, 0.4))
    code, out, _ = call(capfd, first, second, "--level", 0.9)
    assert code == 0
    assert "t2v/R@1: no difference shown; the 90 % interval of B - A is -" in out


def test_the_json_holds_everything_and_is_what_is_written(capfd, first, tmp_path):
    second = evaluation(tmp_path / "second", ranks_of(0, 0.4), names=("t2v", "v2t", "t2v_dsl"))
    code, out, err = call(capfd, first, second, "--json", "--resamples", 200, "--out", tmp_path / "found.json")
    assert code == 0
    assert "Only one of them has t2v_dsl" in err
    found = json.loads(out)
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert set(found["rankings"]) == {"t2v", "v2t"}
    t2v = found["rankings"]["t2v"]
    assert (t2v["better"], t2v["worse"], t2v["equal"], t2v["queries"]) == (0, 0, VIDEOS, VIDEOS)
    assert [d["metric"] for d in t2v["differences"]] == [
        f"t2v/{name}" for name in ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")
    ]
    assert all((d["difference"], d["low"], d["high"], d["p"]) == (0, 0, 0, 1) for d in t2v["differences"])
    assert found["resamples"] == 200


def test_a_run_stands_for_its_best_checkpoint(capfd, first, tmp_path):
    run = tmp_path / "runs/one"
    checkpoint = run / "checkpoints/epoch-0002"
    evaluation(checkpoint / "evaluation/dev", ranks_of(0, 0.4))
    state = {"config_digest": "c", "dataset_digest": "d", "last": "epoch-0003", "best": "epoch-0002"}
    (run / "run.json").write_text(json.dumps(state))
    for place in (run, checkpoint, checkpoint / "evaluation/dev"):
        code, out, _ = call(capfd, place, first, "--split", "dev", "--json")
        assert code == 0
        assert json.loads(out)["a"]["ranks"] == str(checkpoint / "evaluation/dev" / RANKS_FILE)
    code, _, err = call(capfd, run, first)
    assert code == 3
    assert "run gare evaluate" in err


def test_other_shards_are_remarked_on(capfd, first, tmp_path):
    code, _, err = call(capfd, first, evaluation(tmp_path / "second", ranks_of(0, 0.4), digest="other"))
    assert code == 0
    assert "different shards" in err


OTHERS = {
    "ties": ({"ties": "optimistic"}, "ties are pessimistic in A and optimistic in B"),
    "rankings": ({"names": ("t2v_dsl",)}, "A has the rankings t2v, v2t and B has t2v_dsl"),
    "caption": (
        {"captions": [*CAPTIONS[:7], "x" * 99, *CAPTIONS[8:]]},
        f"the caption of query 7 of t2v is 'caption 7' in A and '{'x' * 57}...' in B",
    ),
    "video": ({"ids": [*IDS[:7], "new", *IDS[8:]]}, "the video of query 7 of t2v is 'video7' in A and 'new' in B"),
    "gallery": (
        {"gallery": VIDEOS + 1},
        "t2v ranks 300 queries in a gallery of 300 in A, and 300 in a gallery of 301 in B",
    ),
}


@pytest.mark.parametrize(("changes", "says"), OTHERS.values(), ids=OTHERS)
def test_other_queries_are_not_compared_and_the_difference_is_named(capfd, first, tmp_path, changes, says):
    code, _, err = call(capfd, first, evaluation(tmp_path / "second", ranks_of(1, 0.4), **changes))
    assert code == 3
    assert f"error: A and B cannot be compared: {says}." in err


def test_places_without_ranks_are_one_sentence(capfd, first, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / RANKS_FILE).write_text("ranks")
    for place, says in (
        ("none", "There is no folder"), ("empty", "has no evaluation of 'test'"), ("bad", "Cannot read")
    ):  # fmt: skip
        code, _, err = call(capfd, first, tmp_path / place)
        assert code == 3
        assert says in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["first"], "first is not a sweep; to compare two evaluations, name both"),
        (["first", "first", "first"], "These are 3 folders; give one sweep, or two evaluations"),
        (["first", "first", "--baseline", "x"], "--baseline is for a sweep; you gave two folders"),
        (["first", "--split", "dev", "--seed", "1"], "--seed, --split are for two evaluations; you gave one folder"),
        (["nowhere"], "There is no sweep nowhere"),
    ],
)
def test_what_is_neither_a_sweep_nor_two_evaluations_is_refused(capfd, first, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capfd, *arguments)
    assert code == 3
    assert says in err


def test_the_former_name_does_the_same_and_says_the_new_one(capfd, first):
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["compare-runs", str(first), str(first), "--resamples", "100", "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0
    assert "gare compare-runs is now called gare compare" in err
    assert json.loads(out)["resamples"] == 100

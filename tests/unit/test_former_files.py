"""Files that an earlier version wrote are still read, and give what that version said (``tests/former/make.py``)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from gare.cli import cli
from gare.cli.command import EMBEDDED

ARCHIVES = sorted((Path(__file__).parents[1] / "former").glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def former(request, tmp_path, monkeypatch):
    """What the version recorded of its files, which are in the current folder."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("recorded.json").read_text())


def invoke(arguments):
    return cli.main(args=arguments, standalone_mode=False, obj=EMBEDDED, prog_name="gare")


def losses(run):
    rows = [json.loads(line) for line in Path("runs", run, "history.jsonl").read_text().splitlines()]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def test_shards_are_whole_and_an_evaluation_and_an_index_answer_as_recorded(former):
    found = invoke(["inspect", "shards"])
    assert (found["finished"], found["videos"], found["digest"]) == (True, 12, former["evaluation"]["dataset_digest"])
    before = former["evaluation"]
    now = invoke(["evaluate", "runs/finished", "--shards", "shards", "--split", "test", "--out", "now"])
    same = {name for name in before if isinstance(before[name], float)} | {
        "dataset_digest",
        "config_digest",
        "intervals",
    }
    assert {name: now[name] for name in same} == {name: before[name] for name in same}
    invoke(["compare", "evaluation", "now"])
    checkpoint = ["--checkpoint", "runs/finished/checkpoints/epoch-0001"]
    hits = invoke(["search", "index", former["query"], "--top", "3", *checkpoint])["hits"]
    assert [hit["video_id"] for hit in hits] == [hit["video_id"] for hit in former["search"]["hits"]]
    assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in former["search"]["hits"]], abs=1e-6)


def test_an_interrupted_run_goes_on_to_the_losses_of_the_one_that_was_not(former):
    whole = losses("finished")
    begun = Path("runs/interrupted/history.jsonl").read_text().splitlines()
    assert 0 < len(losses("interrupted")) < len(whole)
    invoke(["train", "config.yaml", "--local", "--set", "runtime.name=interrupted"])
    assert begun[:4] == Path("runs/interrupted/history.jsonl").read_text().splitlines()[:4]
    assert losses("interrupted") == pytest.approx(whole, rel=1e-4)


def test_a_sweep_is_compared_as_before(former):
    now, before = invoke(["compare", "runs/sweep", "--out", "now"]), former["compare"]
    for name in ("sweep", "metric", "best", "best_setting", "settings"):
        assert now[name] == before[name]

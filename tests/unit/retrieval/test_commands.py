"""gare index and gare search: what they print, and one sentence for what they cannot do."""

from __future__ import annotations

import json

import pytest

from gare.model import GareModel, save_model
from tests import toy


@pytest.fixture(scope="module")
def place(tmp_path_factory, toy_clip, toy_shards):
    """A folder with an untrained checkpoint."""
    folder = tmp_path_factory.mktemp("commands")
    config = toy.toy_config(toy_clip, toy_shards, folder, "model.max_frames=3")
    (folder / "checkpoint").mkdir()
    save_model(GareModel.from_clip(toy_clip, config.model).eval(), config, folder / "checkpoint")
    return folder


def test_an_index_is_made_grown_changed_and_searched_by_command(place, toy_shards, tmp_path, call, capfd):
    def done(*command):
        assert call(*command, "--json")[0] == 0
        return capfd.readouterr().out

    def ran(*command):
        code, said = call(*command)
        assert code == 0, said
        return said

    out = tmp_path / "index"
    (tmp_path / "asked.txt").write_text("\n".join(f"a square {n}" for n in range(80)))
    make = ("index", place / "checkpoint", "--shards", toy_shards, "--out", out)
    said = ran(*make, "--split", "train", "--stage-above", 5, "--queries", tmp_path / "asked.txt")
    assert said[-1] == f'{out}: 18 videos; search them with: gare search {out} "..."'
    assert "24 videos" in ran(*make, "--split", "test", "--append")[-1]
    assert (
        "22 videos" in ran("index", "--out", out, "--delete", "test0", "--delete", "train1", "--compact", "--check")[-1]
    )
    assert "Scored all 22 videos." in ran("search", out, "a red square")[-1]
    assert "Scored all 6 videos." in ran("search", out, "a red square", "--where", "colour=red", "--exact")[-1]
    assert "Scored 7 of 22 videos" in ran("search", out, "a red square", "--first-stage", 7)[-1]
    assert "Scored all 21 videos." in ran("search", out, "--like", "train0")[-1]
    record = json.loads((out / "index.json").read_text())
    assert [segment["videos"] for segment in record["segments"]] == [22]
    assert record["recall"]["videos"] == 22


def test_a_clip_is_searched_without_training(place, toy_clip, toy_shards, tmp_path, call):
    out = tmp_path / "index"
    code, said = call("index", toy_clip, "--shards", toy_shards, "--split", "dev", "--out", out)
    assert code == 0, said
    assert call("search", out, "a red square")[0] == 0
    assert json.loads((out / "index.json").read_text())["clip_data"]["frames"] == 3
    code, said = call("index", place / "checkpoint", "--shards", toy_shards, "--out", out, "--append")
    assert (code, "made with other weights" in said[-1]) == (2, True)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("index", "--out", "{out}"), "Give a source and --shards"),
        (("index", "{checkpoint}", "--shards", "{shards}", "--out", "{out}", "--compact"), "take --out alone"),
        (("index", "--out", "{out}", "--check"), "is not an index"),
        (("index", "{checkpoint}", "--shards", "{shards}", "--out", "{out}", "--append"), "is not an index"),
        (("index", "{checkpoint}", "--shards", "{shards}", "--out", "{out}", "--queries", "{out}.txt"), "Cannot read"),
        (("index", "{checkpoint}/none", "--shards", "{shards}", "--out", "{out}"), "none"),
        (("search", "{out}"), "Give either a query or the id"),
        (("search", "{out}", "a", "--like", "b"), "Give either a query or the id"),
        (("search", "{out}", "a", "--where", "red"), "--where red: give an attribute and its value"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(place, toy_shards, tmp_path, call, command, sentence):
    names = {"out": tmp_path / "index", "checkpoint": place / "checkpoint", "shards": toy_shards}
    code, said = call(*(word.format(**names) for word in command))
    assert code == 3
    assert sentence in said[-1]
    assert not (tmp_path / "index" / "index.json").exists()

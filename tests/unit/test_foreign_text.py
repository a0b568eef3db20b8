"""Captions, ids, splits and attributes stay text in files, names of folders, however long they are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.cli import main
from gare.common.errors import InputError
from gare.common.files import write_json
from gare.common.redact import printable_json
from gare.common.sheet import _plain
from gare.common.text import LONGEST_TEXT, folder_name
from gare.data.shards import ShardSet
from gare.model import tokenizer as tokenizer_module
from gare.model.tokenizer import Tokenizer
from gare.schema import MANIFEST
from pipelines.manifest.rows import checked
from tests import toy
from tests.page import HOSTILE

LONG = "x" * (LONGEST_TEXT + 1)
NAMES = [
    "../up",
    "/etc/x",
    "..",
    ".",
    "",
    "a/b",
    "a\0b",
    "-rf",
    "x" * 300,
    "\u4e2d" * 90,
    "\ud800",
    "a\nb",
    "\u202eb",
    "CON/",
]


def manifest_row(**changes):
    row = {"video_id": "v0", "uri": "/v/v0.mp4", "split": "train", "captions": ["a cat"], "attributes": [("k", "v")]}
    return pa.Table.from_pylist([row | changes], schema=MANIFEST)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"captions": ["short", LONG]}, "'v0' has a caption of 10,001 characters"),
        ({"attributes": [(LONG, "v")]}, "'v0' has an attribute of 10,001 characters"),
        ({"attributes": [("k", LONG)]}, "'v0' has an attribute of 10,001 characters"),
        ({"uri": LONG}, "'v0' has uri of 10,001 characters"),
        ({"split": LONG}, "'v0' has split of 10,001 characters"),
        ({"video_id": LONG}, "has video_id of 10,001 characters"),
    ],
)
def test_a_manifest_refuses_text_that_is_too_long_and_says_whose(changes, what):
    with pytest.raises(InputError, match=r"m\.jsonl: .* and 10,000 are the most") as refused:
        checked(manifest_row(**changes), "m.jsonl")
    assert what in str(refused.value)
    assert len(str(refused.value)) < 300
    assert checked(manifest_row(captions=[LONG[1:]]), "m.jsonl").num_rows == 1


def test_captions_of_older_shards_are_read_up_to_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "COLOURS", {"red" + "d" * LONGEST_TEXT: (220, 30, 30)})
    (video,) = ShardSet(toy.make_shards(tmp_path / "s", {"test": 1})).split("test").videos
    assert [len(text) for text in [*video.captions, *video.attributes.values()]] == [LONGEST_TEXT] * 3
    assert video.captions[0] == "a red" + "d" * (LONGEST_TEXT - 5)


def test_the_tokenizer_reads_a_text_up_to_the_limit(toy_clip, monkeypatch):
    cleaned = []
    monkeypatch.setattr(tokenizer_module, "clean", lambda text: cleaned.append(len(text)) or text)
    tokenizer = Tokenizer.load(toy_clip)
    ids, mask = tokenizer(["a red square " * 10**6], 12)
    assert cleaned == [LONGEST_TEXT]
    assert mask.all()
    assert (ids == tokenizer(["a red square " * 9], 12)[0]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_for_any_name_is_one_new_folder(name, tmp_path):
    place = tmp_path / folder_name(name)
    place.mkdir()
    assert list(tmp_path.iterdir()) == [place]
    assert place.is_dir()


@given(st.text(), st.text())
def test_two_names_never_share_a_folder(one, other):
    assert (folder_name(one) == folder_name(other)) == (one == other)
    assert len(folder_name(one).encode()) < 230


@pytest.mark.parametrize("name", ["test", "dev", "1k-A", "val seen", "full_test", "\u00fcbung"])
def test_a_plain_name_is_its_own_folder(name):
    assert folder_name(name) == name


def test_a_split_with_a_hostile_name_is_evaluated_inside_its_checkpoint(tmp_path, toy_clip, capfd, monkeypatch):
    name = "../../../up\x1b[31m"
    shards = toy.make_shards(tmp_path / "shards", {"train": 8, name: 3})
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    monkeypatch.chdir(out)
    with pytest.raises(SystemExit, match="0"):
        main(["zero-shot", str(toy_clip), "--shards", str(shards), "--split", name, "--resamples", "0", "--json"])
    printed, said = capfd.readouterr()
    assert not set(printed + said) & set("\x1b\x9b")
    result = json.loads(printed)
    assert result["split"] == name
    assert Path(result["out"]).resolve().parent == out / "zero-shot" / toy_clip.name
    assert list(out.iterdir()) == [out / "zero-shot"]
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "a"}


def test_a_contact_sheet_obeys_nothing_and_cuts_texts_without_spaces():
    assert _plain("a\n b\x1b\u202e $x$ \ud800", 10) == r"a b\x1b\u202e \$x\$ \ud800"
    assert _plain("\u4e2d" * 500, 2) == "\u4e2d" * 22 + " ..."


def test_json_holds_any_text_and_shows_none_that_is_obeyed(tmp_path):
    hostile = {HOSTILE: [HOSTILE, "\x9b31m\x7f"]}
    write_json(tmp_path / "a.json", hostile)
    written = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(written) == hostile
    assert not set(written) & set("\x00\x1b\x7f\x9b\u202e\ud800")
    assert printable_json(json.dumps("日本 \u0637", ensure_ascii=False)) == '"日本 \u0637"'

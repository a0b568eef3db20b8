"""``gare shards``: what it prints, and the one sentence for every mistake."""

from __future__ import annotations

import json
import shutil

import pytest

from gare.cli import main
from gare.common.occupied import TELLING
from tests.made_shards import RECIPE, made_row, make_dataset, stored_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("command")
    make_dataset(place / "a", [made_row(f"a{n}", "test" if n == 1 else "train") for n in range(4)])
    make_dataset(place / "b", [made_row("b0")])
    limits = RECIPE.limits.model_copy(update={"max_seconds": 9.0})
    other = RECIPE.model_copy(update={"max_frames": 2, "limits": limits})
    make_dataset(place / "other", [made_row("o0")], other)
    make_dataset(place / "twin", [made_row("a2"), made_row("a3")])
    make_dataset(place / "odd", [made_row("x", "../up")])
    for name in ("mine", "shards-only"):
        (place / name / "shards").mkdir(parents=True)
        (place / name / "shards/unit-000000-00.arrow").write_bytes(b"years of work")
    (place / "mine/recipe.json").write_text("{}")
    (place / "file").write_text("a")
    (place / "empty.txt").write_text("\n")
    (place / "ids.txt").write_text("a1\nnobody\nnone\n")
    (place / "nobody.txt").write_text("nobody\n")
    (place / "latin.txt").write_bytes(b"caf\xe9")
    return place


def shards(capfd, *arguments):
    """Exit code, standard output and standard error of ``gare shards``."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["shards", *map(str, arguments)])
    return ended.value.code, *capfd.readouterr()


def test_stat_prints_the_figures(capfd, made):
    code, out, err = shards(capfd, "stat", made / "a", "--verify")
    assert code == 0
    for text in ("unit-000001-00.arrow", "train", "8 x 8", "raw", "prepare.limits.max_aspect", "prepare.max_frames"):
        assert text in out
    assert "4 videos, 8 frames" in err
    assert "verified: 0 problems" in err


def test_stat_as_json(capfd, made):
    result = json.loads(shards(capfd, "stat", made / "a", "--json")[1])
    assert (result["rows"], result["frames"], result["verified"]) == (4, 8, False)
    assert result["splits"] == {"test": {"videos": 1, "captions": 1}, "train": {"videos": 3, "captions": 3}}
    assert (result["frame_codecs"], result["frame_sizes"]) == ({"raw": 4}, {"8 x 8": 4})
    assert result["bytes"]["total"] == sum(shard["bytes"] for shard in result["shards"])


def test_what_is_wrong_is_listed_and_ends_with_code_4(capfd, made, tmp_path):
    folder = shutil.copytree(made / "a", tmp_path / "a")
    path = folder / "shards/unit-000001-00.arrow"
    path.write_bytes(path.read_bytes().replace(b"h264", b"hevc", 1))
    code, out, err = shards(capfd, "stat", folder, "--verify")
    assert code == 4
    assert "has another SHA-256" in out
    assert err.count("error:") == 1
    assert len(json.loads(shards(capfd, "stat", folder, "--verify", "--json")[1])["problems"]) == 1
    path.unlink()
    code, _, err = shards(capfd, "stat", folder)
    assert code == 0
    assert "warning: The shard" in err


def test_split_and_merge(capfd, made, tmp_path):
    code, out, _ = shards(capfd, "split", made / "a", "--by", "split", "--out", tmp_path / "cut")
    assert code == 0
    assert "test" in out
    words = ["merge", tmp_path / "cut/test", tmp_path / "cut/train", made / "b", "--out", tmp_path / "all"]
    result = json.loads(shards(capfd, *words, "--json")[1])
    assert (result["totals"]["ok"], result["reused"]) == (5, False)
    assert [row["video_id"] for row in stored_rows(tmp_path / "all")] == ["a1", "a0", "a2", "a3", "b0"]
    assert "was there already" in shards(capfd, *words)[2]
    words = ["split", made / "a", "--ids", made / "ids.txt", "--allow-missing", "--out", tmp_path / "found"]
    assert "warning: 2 of the 3 videos of" in shards(capfd, *words)[2]
    words = ["split", made / "a", "--parts", 2, "--out", tmp_path / "parts", "--json"]
    assert sorted(json.loads(shards(capfd, *words)[1])["datasets"]) == ["part-0000", "part-0001"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("stat {p}/none", 3, "There is no folder"),
        ("stat {p}/mine", 3, "has no dataset.json"),
        ("stat nfs://x/y", 3, "cannot be opened: addresses start with"),
        (
            "merge {p}/a {p}/other --out {o}",
            3,
            "different recipes: prepare.max_frames is 3 and 2; prepare.limits.max_s",
        ),
        ("merge {p}/a {p}/twin --out {o}", 3, "'a2' ("),
        ("merge {p}/a {p}/a --out {o}", 3, "and 1 more"),
        ("merge {p}/a --out {p}/b", 3, "holds another dataset"),
        ("merge {p}/a --out {p}/a", 3, "holds another dataset"),
        ("merge {p}/a --out {p}/mine", 3, "holds another dataset"),
        ("merge {p}/a --out {p}/shards-only", 3, "holds shards of something else"),
        ("merge {p}/a --out {p}/file", 3, "is a file"),
        ("merge --out {o}", 2, "Missing argument"),
        ("split {p}/a --out {o}", 3, "Say how to cut"),
        ("split {p}/a --by split --parts 2 --out {o}", 3, "--by and --parts are two ways to cut"),
        ("split {p}/a --parts 5 --out {o}", 3, "has 4 videos, which cannot be cut into 5 parts"),
        ("split {p}/a --take dev --out {o}", 3, "has no split 'dev'; its splits are: test, train"),
        ("split {p}/a --take test --allow-missing --out {o}", 3, "--allow-missing is about --ids"),
        ("split {p}/odd --by split --out {o}", 3, "which is not a name for a folder"),
        ("split {p}/a --ids {p}/none.txt --out {o}", 3, "There is no file"),
        ("split {p}/a --ids {p}/empty.txt --out {o}", 3, "names no video"),
        ("split {p}/a --ids {p}/latin.txt --out {o}", 3, "is not UTF-8 text"),
        ("split {p}/a --ids {p}/none.csv --out {o}", 3, "There is no manifest"),
        ("split {p}/a --ids {p}/ids.txt --out {o}", 3, "2 of the 3 videos"),
        ("split {p}/a --ids {p}/nobody.txt --allow-missing --out {o}", 3, "1 of the 1 videos"),
        ("split {p}/a --by split --out {p}/file", 3, "is a file"),
        ("split {p}/a --by split --shard-bytes 0 --out {o}", 2, "'--shard-bytes'"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(capfd, made, tmp_path, arguments, code, sentence):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    ended, _, err = shards(capfd, *arguments.format(p=made, o=tmp_path / "out").split())
    assert ended == code
    assert sentence in err
    assert err.count("error:") == 1
    assert not (tmp_path / "out").exists()
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("command", "kind"),
    [("split", kind) for kind, _ in TELLING] + [("merge", kind) for kind, _ in TELLING if kind != "prepared shards"],
)
def test_datasets_are_not_written_over_other_things(capfd, made, tmp_path, command, kind):
    names = {name for found, sets in TELLING if found == kind for name in sets[0]}
    for name in names:
        (tmp_path / name).write_text("precious")
    how = () if command == "merge" else ("--by", "split")
    code, _, said = shards(capfd, command, made / "a", *how, "--out", tmp_path)
    assert (code, f"{tmp_path} holds {kind}, which is never written over" in " ".join(said.split())) == (3, True), said
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all((tmp_path / name).read_text() == "precious" for name in names)

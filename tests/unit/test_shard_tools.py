"""Merging and cutting datasets: the same rows bit for bit, nothing half done, and nothing lost."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from gare.common import storage
from gare.common.errors import InputError, RunError
from gare.common.locks import exclusive_lock
from gare.common.storage import Folder
from gare.data.shards import ShardSet
from pipelines.dataset.layout import dataset_digest
from pipelines.dataset.tools.check import stat
from pipelines.dataset.tools.dataset import open_dataset
from pipelines.dataset.tools.merge import merge
from pipelines.dataset.tools.split import by_split, in_parts, of_ids, of_splits, split, whole
from pipelines.dataset.tools.target import UNFINISHED_FILE
from tests.made_shards import RECIPE, made_row, make_dataset, stored_rows

ROOT = Path(__file__).parents[2]


def at(*places):
    return [Folder.at(place) for place in places]


def merged(out, *places, **options):
    return merge(at(*places), Folder.at(out), **options)


def cut(place, out, how, **options):
    return split(*at(place, out), how, **options)


def files(folder):
    """The shards of a folder and its dataset.json, by name."""
    names = [*sorted((folder / "shards").iterdir()), folder / "dataset.json"]
    return {path.name: path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two datasets of one recipe, ``a`` with 7 videos in two splits and a failed one, ``b`` with 3."""
    place = tmp_path_factory.mktemp("made")
    rows = [made_row(f"a{n}", "test" if n % 3 == 1 else "train", frames=1 + n % 3) for n in range(7)]
    make_dataset(place / "a", rows, failed=["gone"], notes={"a0": ["partial"], "a1": ["truncated", "partial"]})
    make_dataset(place / "b", [made_row(f"b{n}", "train") for n in range(3)], failed=["lost"])
    return place


texts = st.text(st.characters(codec="utf-8"), max_size=8)
videos = st.builds(
    made_row,
    st.text("abcdef", min_size=1, max_size=3),
    st.sampled_from(["train", "test", "dev set"]),
    frames=st.integers(1, 3),
    captions=st.lists(texts, max_size=3),
    attributes=st.none() | st.lists(st.tuples(texts, texts), max_size=2),
    fps=st.none() | st.floats(),
)
corpora = st.lists(videos, min_size=1, max_size=12, unique_by=lambda row: row["video_id"])


@settings(max_examples=25)
@given(corpora, st.integers(1, 5), st.integers(1, 3000), st.booleans())
def test_what_was_cut_and_merged_again_is_the_same_rows(rows, parts, shard_bytes, by):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_dataset(place / "all", rows)
        before = stored_rows(place / "all")
        how = by_split() if by else in_parts(min(parts, len(rows)))
        made = cut(place / "all", place / "cut", how, shard_bytes=shard_bytes)
        merged(place / "again", *(one.place.local for one in made.values()))
        order = sorted(before, key=lambda row: row["split"]) if by else before
        assert [exact(row) for row in stored_rows(place / "again")] == [exact(row) for row in order]
        assert stat(Folder.at(place / "again"), verify=True)["problems"] == []
        values = [json.loads((place / f / "dataset.json").read_text()) for f in ("all", "again")]
        assert values[0]["splits"] == values[1]["splits"]
        assert {k: v for k, v in values[0]["totals"].items() if k != "bytes"} == {
            k: v for k, v in values[1]["totals"].items() if k != "bytes"
        }


def exact(row):
    """A row to compare bit for bit: a NaN equals itself, and -0.0 is not 0.0."""
    return repr(row), struct.pack("d", row["source_fps"] or 0.0)


def test_a_merged_dataset_is_read_and_counted_as_one(made, tmp_path):
    done = merged(tmp_path / "all", made / "a", made / "b")
    shards = ShardSet(tmp_path / "all")
    assert [video.video_id for video in shards.split("train").videos] == [
        "a0",
        "a2",
        "a3",
        "a5",
        "a6",
        "b0",
        "b1",
        "b2",
    ]
    assert done.values["totals"] == {
        "rows": 12, "ok": 10, "filtered": {}, "failed": {"missing": 2}, "notes": {"partial": 2, "truncated": 1},
        "frames": 13 + 6, "bytes": sum(path.stat().st_size for path in (tmp_path / "all/shards").iterdir()),
    }  # fmt: skip
    assert (shards.digest, shards.recipe) == (done.values["digest"], RECIPE.model_dump(mode="json"))
    assert done.values["made_from"]["datasets"] == [ShardSet(made / name).digest for name in "ab"]
    assert not (tmp_path / "all" / UNFINISHED_FILE).exists()


def test_the_digest_is_the_one_that_prepare_gives(made):
    dataset = open_dataset(Folder.at(made / "a"))
    assert dataset.digest == dataset_digest(dataset.recipe_digest, dataset.shards)


def test_the_same_datasets_give_the_same_files_linked_or_copied(made, tmp_path):
    merged(tmp_path / "linked", made / "a", made / "b")
    merged(tmp_path / "copied", made / "a", made / "b", copy=True)
    assert files(tmp_path / "linked") == files(tmp_path / "copied")
    linked, copied = (tmp_path / name / "shards/shard-000000.arrow" for name in ("linked", "copied"))
    assert linked.samefile(made / "a/shards/unit-000000-00.arrow")
    assert copied.stat().st_nlink == 1
    assert merged(tmp_path / "other", made / "b", made / "a").values["digest"] != ShardSet(tmp_path / "linked").digest


def test_where_links_cannot_be_made_files_are_copied(made, tmp_path, monkeypatch):
    def no_links(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    merged(tmp_path / "all", made / "a")
    assert (tmp_path / "all/shards/shard-000000.arrow").stat().st_nlink == 1
    assert stored_rows(tmp_path / "all") == stored_rows(made / "a")


def test_the_parts_keep_order_notes_and_nothing_else(made, tmp_path):
    parts = cut(made / "a", tmp_path / "cut", by_split())
    assert list(parts) == ["test", "train"]
    assert [row["video_id"] for row in stored_rows(tmp_path / "cut/test")] == ["a1", "a4"]
    assert parts["test"].values["totals"]["notes"] == {"partial": 1, "truncated": 1}
    assert parts["train"].values["totals"]["notes"] == {"partial": 1}
    assert parts["train"].values["totals"]["rows"] == 5
    again = cut(tmp_path / "cut/test", tmp_path / "one", whole())[""]
    assert "notes" not in again.values["totals"]  # without a ledger nothing tells whose they are
    assert "notes" not in merged(tmp_path / "two", tmp_path / "one", made / "b").values["totals"]


def test_shards_are_closed_at_the_size_that_is_asked_for(made, tmp_path):
    few = cut(made / "a", tmp_path / "few", whole(), shard_bytes=10**6)[""]
    many = cut(made / "a", tmp_path / "many", whole(), shard_bytes=1)[""]
    assert (len(few.values["shards"]), len(many.values["shards"])) == (1, 7)
    assert stored_rows(tmp_path / "few") == stored_rows(tmp_path / "many") == stored_rows(made / "a")
    assert few.values["recipe"]["shard_bytes"] == RECIPE.shard_bytes


def test_some_splits_and_some_videos(made, tmp_path):
    cut(made / "a", tmp_path / "test", of_splits(["test"]))
    assert {row["split"] for row in stored_rows(tmp_path / "test")} == {"test"}
    (tmp_path / "ids.txt").write_text("\ufeffa5\n\na2\r\n", encoding="utf-8")
    cut(made / "a", tmp_path / "ids", of_ids(str(tmp_path / "ids.txt")))
    assert [row["video_id"] for row in stored_rows(tmp_path / "ids")] == ["a2", "a5"]
    lines = [{"video_id": name, "uri": "x", "split": "train", "captions": ["c"]} for name in ("a6", "none")]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cut(made / "a", tmp_path / "found", of_ids(str(tmp_path / "ids.jsonl"), allow_missing=True))
    assert [row["video_id"] for row in stored_rows(tmp_path / "found")] == ["a6"]


@pytest.mark.parametrize("step", range(1, 9))
def test_an_interrupted_merge_leaves_no_dataset_and_goes_on(made, tmp_path, step):
    merged(tmp_path / "whole", made / "a", made / "b")

    def stop(done, _):
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged(tmp_path / "all", made / "a", made / "b", on_progress=stop)
    assert not (tmp_path / "all/dataset.json").exists()
    merged(tmp_path / "all", made / "a", made / "b")
    assert files(tmp_path / "all") == files(tmp_path / "whole")


KILLED = """
import os, signal, sys
from gare.common.storage import Folder
from pipelines.dataset.tools.split import by_split, split
def stop(done, _):
    if done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
from pipelines.dataset import shard_rows
real = shard_rows.file_digest
shard_rows.file_digest = lambda path: os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "0" else real(path)
split(Folder.at(sys.argv[2]), Folder.at(sys.argv[3]), by_split(), on_progress=stop)
"""


@pytest.mark.parametrize("step", [0, 4])
def test_a_killed_split_leaves_no_dataset_and_goes_on(made, tmp_path, step):
    cut(made / "a", tmp_path / "whole", by_split())
    words = [str(step), str(made / "a"), str(tmp_path / "cut")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -9
    assert (tmp_path / "cut/train" / UNFINISHED_FILE).exists()
    assert not list((tmp_path / "cut").rglob("dataset.json"))
    with pytest.raises(InputError, match="holds an unfinished dataset of other data"):
        cut(made / "a", tmp_path / "cut/train", whole())
    cut(made / "a", tmp_path / "cut", by_split())
    for part in ("train", "test"):
        assert files(tmp_path / "cut" / part) == files(tmp_path / "whole" / part)
        assert not (tmp_path / "cut" / part / UNFINISHED_FILE).exists()


def test_what_is_finished_is_left_as_it_is(made, tmp_path):
    assert not merged(tmp_path / "all", made / "a", made / "b").reused
    before = (tmp_path / "all/dataset.json").stat()
    assert merged(tmp_path / "all", made / "a", made / "b").reused
    assert (tmp_path / "all/dataset.json").stat().st_mtime_ns == before.st_mtime_ns
    (tmp_path / "all/shards/shard-000001.arrow").unlink()
    assert not merged(tmp_path / "all", made / "a", made / "b").reused
    assert stat(Folder.at(tmp_path / "all"), verify=True)["problems"] == []
    cut(made / "a", tmp_path / "cut", in_parts(2))
    assert all(one.reused for one in cut(made / "a", tmp_path / "cut", in_parts(2)).values())


def test_a_shard_that_changes_while_it_is_copied_is_not_taken(made, tmp_path):
    def change(done, _):
        if done == 3:  # all are checked, and the first is about to be copied
            path = tmp_path / "a/shards/unit-000000-00.arrow"
            path.write_bytes(path.read_bytes().replace(b"h264", b"hevc", 1))

    make_dataset(tmp_path / "a", stored_rows(made / "a"))
    assert len(ShardSet(tmp_path / "a").manifest["shards"]) == 3
    with pytest.raises(InputError, match="was changed while it was copied"):
        merged(tmp_path / "all", tmp_path / "a", copy=True, on_progress=change)
    assert not (tmp_path / "all/dataset.json").exists()
    assert list((tmp_path / "all/shards").iterdir()) == []


def test_only_one_at_a_time(made, tmp_path):
    with exclusive_lock(tmp_path / "all"), pytest.raises(RunError, match="Another process is at work"):
        merged(tmp_path / "all", made / "a")


def test_a_folder_below_an_address_keeps_its_options():
    place = Folder("s3://bucket/cut?endpoint_override=localhost:9").below("train")
    assert place.address == "s3://bucket/cut/train?endpoint_override=localhost:9"


def test_it_is_the_same_on_storage_that_is_not_this_disk(made, tmp_path, monkeypatch):
    real = storage._file_system
    away = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr(storage, "_file_system", lambda name: (away, name[5:]) if name[:5] == "s3://" else real(name))
    (tmp_path / "bucket").mkdir()
    split(Folder.at(made / "a"), Folder.at("s3://bucket/cut"), by_split())
    merge(at("s3://bucket/cut/train", "s3://bucket/cut/test"), Folder.at("s3://bucket/all"))
    cut(made / "a", tmp_path / "cut", by_split())
    merged(tmp_path / "all", tmp_path / "cut/train", tmp_path / "cut/test")
    assert files(tmp_path / "bucket/all") == files(tmp_path / "all")
    assert stat(Folder.at("s3://bucket/all"), verify=True)["problems"] == []
    assert sorted(path.name for path in (tmp_path / "bucket/all").iterdir()) == ["dataset.json", "shards"]
    with pytest.raises(InputError, match="holds another dataset"):
        merge(at(made / "b"), Folder.at("s3://bucket/all"))
    (tmp_path / "bucket/all/shards/shard-000000.arrow").unlink()
    assert "is missing" in stat(Folder.at("s3://bucket/all"), verify=True)["problems"][0]

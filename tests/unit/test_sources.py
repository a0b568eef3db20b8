"""Manifests of CSV, JSON lines, Parquet and folders: all by the same rules."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.cli.manifest import manifest as manifest_group
from gare.common.errors import InputError
from gare.schema import MANIFEST
from pipelines.manifest.load import load_manifest
from pipelines.manifest.rows import content_digest, write_manifest
from pipelines.manifest.sources.folder import from_folder
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv, from_jsonl, from_parquet

READERS = {"csv": from_csv, "jsonl": from_jsonl, "parquet": from_parquet}
COLUMNS = {"video_id": "file", "uri": "file", "captions": "text"}


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def made(folder, kind, rows, **options):
    path = folder / f"a.{kind}"
    WRITERS[kind](path, rows)
    return READERS[kind](path, SourceOptions(**options))


def jsonl(tmp_path, *rows, **options):
    return made(tmp_path, "jsonl", rows, **options).table.to_pylist()


# Tables

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=("Cs", "Cc")), max_size=8)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "file": st.sampled_from(["a.mp4", "x/a.mp4", "b.mov", "b.mkv", "y/c.webm", "d"]),
            "text": st.lists(WORDS, max_size=3),
            "start_s": st.none() | st.just(0.5),
            "colour": WORDS,
        }
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(
    rows=ROWS,
    allow=st.booleans(),
    where=st.sampled_from([{"split": "train"}, {"carve": {"dev": 0.4}}, {"carve": {"dev": 0.3, "test": 0.3}}]),
)
def test_the_same_rows_are_the_same_manifest_from_csv_jsonl_and_parquet(tmp_path_factory, rows, allow, where):
    folder = tmp_path_factory.mktemp("rows")
    options = {"columns": COLUMNS, "attributes": ("colour",), "allow_uncaptioned": allow, **where}
    results = []
    for kind in READERS:
        try:
            result = made(folder, kind, rows, **options)
            results.append((result.rows, result.uncaptioned, content_digest(result.table)))
        except InputError as error:  # what it says differs in the place only
            results.append(str(error).replace(f".{kind}", "").replace("row 0", "line 1"))
    if not isinstance(results[0], str):
        assert results[0] == results[1] == results[2]
    else:
        assert all(isinstance(result, str) for result in results)


def test_json_lines_hold_lists_strings_and_attributes_and_leave_out_keys(tmp_path):
    rows = [
        {"video_id": 7, "uri": "a.mp4", "captions": ["one", " two ", "", None], "attributes": {"n": 1, "s": "x"}},
        {"video_id": "b", "uri": "s3://bucket/b.mp4", "captions": '["three", "four"]', "end_s": "2.5"},
        {"video_id": "b", "uri": "s3://bucket/b.mp4", "captions": "five", "end_s": 2.5},
        {"video_id": "c", "uri": "c.mp4", "extra": {"deep": [1]}},
    ]
    table = jsonl(tmp_path, *rows, split="train", allow_uncaptioned=True)
    assert [row["video_id"] for row in table] == ["7", "b", "c"]
    assert [row["captions"] for row in table] == [["one", "two"], ["three", "four", "five"], []]
    assert table[0]["attributes"] == [("n", "1"), ("s", "x")]
    assert (table[1]["uri"], table[1]["end_s"]) == ("s3://bucket/b.mp4", 2.5)
    assert table[2]["uri"] == str(tmp_path / "c.mp4")


def test_named_keys_join_the_attributes_and_all_become_text(tmp_path):
    row = {"video_id": "a", "uri": "a", "captions": "x", "attributes": {"kind": "old", "more": True}, "kind": 2.5}
    assert jsonl(tmp_path, row, split="x", attributes=("kind",))[0]["attributes"] == [("kind", "2.5"), ("more", "true")]


def test_a_manifest_as_parquet_is_read_as_it_is(tmp_path):
    row = {"video_id": "a", "uri": "/v/a.mp4", "split": "dev", "captions": ["x", "y"], "attributes": [("k", "v")]}
    write_manifest(pa.Table.from_pylist([row], MANIFEST), tmp_path / "m.parquet")
    table = from_parquet(tmp_path / "m.parquet", SourceOptions()).table
    assert content_digest(table) == content_digest(load_manifest(tmp_path / "m.parquet"))


def test_parquet_of_many_batches_keeps_its_order_and_reads_no_other_column(tmp_path, monkeypatch):
    monkeypatch.setattr("gare.common.parquet.BATCH_ROWS", 3)
    columns = {"video_id": [f"v{i}" for i in range(10)], "uri": ["f"] * 10, "captions": ["x"] * 10}
    pq.write_table(pa.table({**columns, "features": [b"\xff\xfe"] * 10}), tmp_path / "m.parquet")
    assert from_parquet(tmp_path / "m.parquet", SourceOptions(split="s")).table["video_id"].to_pylist() == [
        f"v{i}" for i in range(10)
    ]


GOOD = {"video_id": "a", "uri": "a.mp4", "split": "train", "captions": ["x"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a"}], "no column video_id, uri, captions; its columns are id"),
        ([{**GOOD, "uri": 1.5}], "line 1: 1.5 is not a uri that is text"),
        ([GOOD, {**GOOD, "video_id": None}], "line 2 has no video_id"),
        ([GOOD, {"video_id": "b", "uri": "b", "captions": "x"}], "line 2 has no split"),
        ([{**GOOD, "captions": [1]}], r"line 1: \[1\] is not a list of captions"),
        ([{**GOOD, "captions": {"a": "b"}}], "is not a list of captions"),
        ([{**GOOD, "attributes": "x"}], "is not a mapping of attributes"),
        ([{**GOOD, "start_s": True}], "True is not a number of seconds"),
        ([{**GOOD, "start_s": [1]}], "is not a number of seconds"),
        ([{**GOOD, "end_s": 10**400}], r"1000.*\.\.\. is not a number of seconds"),
        ([GOOD, {**GOOD, "uri": "b.mp4"}], "line 2: 'a' has another uri than in line 1"),
        ([{**GOOD, "captions": None}], "No row of .* has a caption"),
        ([{**GOOD, "captions": ["\ud800"]}], "not valid Unicode"),
    ],
)
def test_json_lines_that_cannot_be_used_are_explained(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        jsonl(tmp_path, *rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"\n\n", "has no rows"),
        (b"{}\n", "is empty"),
        (b'{"video_id": "a"\n', "line 1 is not a JSON object"),
        (b"[" * 5000, "line 1 is not a JSON object"),
        (b"\xe9", "not UTF-8 text"),
        (b"\xff\xfe", "has no rows"),
    ],
)
def test_a_file_that_is_no_json_lines_is_explained(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        from_jsonl(tmp_path / "a.jsonl", SourceOptions(split="x"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video_id": ["a"], "uri": ["a"], "captions": [b"x"]}, "row 1: b'x' is not a list of captions"),
        ({"video_id": ["a", ""], "uri": ["a", "b"], "captions": ["x", "y"]}, "row 2 has no video_id"),
        ({"video_id": pa.array([], pa.string()), "uri": pa.array([], pa.string()), "captions": []}, "has no rows"),
        ({"path": ["a"]}, "no column video_id, uri, captions; its columns are path"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_is_explained(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        from_parquet(tmp_path / "a.parquet", SourceOptions(split="x"))


def test_a_cut_parquet_file_is_one_sentence_wherever_it_ends(tmp_path):
    made(tmp_path, "parquet", [GOOD] * 50)
    whole = (tmp_path / "a.parquet").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "a.parquet").write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a Parquet file"):
            from_parquet(tmp_path / "a.parquet", SourceOptions())


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])
def test_what_is_not_there_is_one_sentence(tmp_path, kind):
    reader = {**READERS, "folder": from_folder}[kind]
    with pytest.raises(InputError, match="There is no f"):
        reader(tmp_path / "none", SourceOptions(split="x"))


# Folders


@pytest.fixture
def videos(tmp_path):
    for name in (
        "a.mp4",
        "x/a.MP4",
        "x/b.mkv",
        "x/b.webm",
        "x/y/c.d.Mov",
        ".hidden.mp4",
        "x/notes.txt",
        "mp4",
        "p.png",
    ):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "videos"


def test_a_folder_gives_its_videos_by_path_without_captions(videos):
    table = from_folder(videos, SourceOptions()).table.to_pylist()
    assert [row["video_id"] for row in table] == ["a", "x/a", "x/b.mkv", "x/b.webm", "x/y/c.d"]
    assert [row["uri"] for row in table] == [
        str(videos / name) for name in ("a.mp4", "x/a.MP4", "x/b.mkv", "x/b.webm", "x/y/c.d.Mov")
    ]
    assert {(row["split"], len(row["captions"])) for row in table} == {("gallery", 0)}


def test_a_files_id_does_not_change_when_others_are_added(videos):
    before = {row["uri"]: row["video_id"] for row in from_folder(videos, SourceOptions()).table.to_pylist()}
    (videos / "z").mkdir()
    (videos / "z/a.mp4").write_bytes(b"")
    after = {row["uri"]: row["video_id"] for row in from_folder(videos, SourceOptions()).table.to_pylist()}
    assert before.items() <= after.items()


def test_a_folder_takes_a_split_a_carve_and_other_suffixes(videos):
    assert set(from_folder(videos, SourceOptions(split="test")).table["split"].to_pylist()) == {"test"}
    carved = from_folder(videos, SourceOptions(carve={"dev": 0.5})).table.to_pylist()
    assert {row["split"] for row in carved} == {"dev", "train"}
    assert from_folder(videos, SourceOptions(), {"png"}).table["video_id"].to_pylist() == ["p"]
    with pytest.raises(InputError, match="holds no video file; files count that end in gif"):
        from_folder(videos, SourceOptions(), {"gif"})


def test_links_are_followed_and_a_circle_ends(videos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/e.mp4").write_bytes(b"")
    (videos / "link").symlink_to(tmp_path / "elsewhere")
    (videos / "x/circle").symlink_to(videos)
    (videos / "broken.mp4").symlink_to(videos / "nothing.mp4")
    ids = from_folder(videos, SourceOptions()).table["video_id"].to_pylist()
    assert "link/e" in ids
    assert len(ids) == 6


# The commands


def run(*arguments):
    return CliRunner().invoke(manifest_group, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_all_tables_take_the_same_options(tmp_path, kind):
    rows = [{"file": f"{i}.mp4", "text": "" if i == 3 else f"caption {i}", "colour": "red"} for i in range(20)]
    WRITERS[kind](tmp_path / f"t.{kind}", rows)
    out = tmp_path / "m.parquet"
    columns = ",".join(f"{name}={column}" for name, column in COLUMNS.items())
    options = ["--columns", columns, "--root", tmp_path, "--carve", "dev=0.3", "--seed", "1", "--attributes", "colour"]
    result = run(kind, tmp_path / f"t.{kind}", "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert "1 videos without a caption were dropped" in result.output
    table = load_manifest(out).to_pylist()
    assert len(table) == 19
    assert all(("colour", "red") in row["attributes"] for row in table)
    assert run(kind, tmp_path / f"t.{kind}", "--out", tmp_path / f"t.{kind}", *options).exit_code == 3
    both = run(kind, tmp_path / f"t.{kind}", "--out", out, *options, "--split", "x")
    assert "one of the two" in both.output


def test_the_folder_command_says_what_such_videos_are_good_for(videos, tmp_path):
    result = run("folder", videos, "--out", tmp_path / "m.parquet", "--suffixes", ".MKV, webm")
    assert result.exit_code == 0, result.output
    assert "No captions in gallery: such videos can be prepared, indexed and searched" in result.output
    assert load_manifest(tmp_path / "m.parquet")["split"].to_pylist() == ["gallery", "gallery"]

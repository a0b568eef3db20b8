from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from gare.cli.manifest import manifest as manifest_group
from gare.common.errors import InputError
from gare.schema import MANIFEST, VERSION_KEY
from pipelines.manifest.load import load_manifest
from pipelines.manifest.rows import carve, content_digest, splits_of, write_manifest
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv


def csv_file(tmp_path, text, name="videos.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def built(tmp_path, text, **options):
    return from_csv(csv_file(tmp_path, text), SourceOptions(**options))


def rows(table):
    return {row["video_id"]: row for row in table.to_pylist()}


GOOD = {"video_id": "a", "uri": "/v/a.mp4", "split": "train", "captions": ["a cat"]}


# From CSV


def test_rows_of_one_video_are_grouped_and_captions_kept_in_order_and_distinct(tmp_path):
    lines = ["a,a.mp4,train,first", "b,b.mp4,test,other", "a,a.mp4,train,second", "a,a.mp4,train,first"]
    text = "\n".join(["video_id,uri,split,captions", *lines])
    table = built(tmp_path, text).table
    assert table.schema.equals(MANIFEST)
    assert table["video_id"].to_pylist() == ["a", "b"]
    assert rows(table)["a"]["captions"] == ["first", "second"]
    assert rows(table)["a"]["uri"] == str(tmp_path / "a.mp4")


def test_a_json_list_is_many_captions_and_a_bracket_alone_is_text(tmp_path):
    text = 'video_id,uri,split,captions\na,a.mp4,train,"[""one"", ""two""]"\nb,b.mp4,train,[music] plays\n'
    table = built(tmp_path, text).table
    assert [row["captions"] for row in table.to_pylist()] == [["one", "two"], ["[music] plays"]]


def test_other_column_names_and_attributes(tmp_path):
    text = "file,caption,colour\nsub/a.mp4,a cat,red\n"
    options = {"columns": {"video_id": "file", "uri": "file", "captions": "caption"}, "split": "test"}
    row = built(tmp_path, text, **options, attributes=("colour",)).table.to_pylist()[0]
    assert (row["video_id"], row["split"], row["attributes"]) == ("a", "test", [("colour", "red")])
    assert row["uri"] == str(tmp_path / "sub" / "a.mp4")


def test_files_of_one_name_get_more_of_their_path_into_the_id(tmp_path):
    text = "file,captions\nx/a.mp4,one\ny/a.mp4,two\nx/b.mp4,three\nx/c.mp4,four\nx/c.mov,five\n"
    table = built(tmp_path, text, columns={"video_id": "file", "uri": "file"}, split="train").table
    assert table["video_id"].to_pylist() == ["x/a", "y/a", "b", "x/c.mp4", "x/c.mov"]


def test_a_uri_with_a_scheme_is_left_alone(tmp_path):
    text = "video_id,uri,split,captions\na,s3://bucket/a.mp4,train,x\n"
    assert built(tmp_path, text).table["uri"].to_pylist() == ["s3://bucket/a.mp4"]


def test_videos_without_captions_are_dropped_and_counted(tmp_path):
    text = "video_id,uri,split,captions\na,a.mp4,train,x\nb,b.mp4,train,\nb,b.mp4,train,  \n"
    assert built(tmp_path, text).uncaptioned == 1
    kept = built(tmp_path, text, allow_uncaptioned=True)
    assert kept.table["captions"].to_pylist() == [["x"], []]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("video_id,uri,split,captions\n", "has no rows"),
        ("video_id,path,split,captions\na,b,c,d\n", "no column uri; its columns are video_id, path, split, captions"),
        ("video_id,uri,captions\na,b,c\n", "no split column; give --split"),
        (
            "video_id,uri,split,captions\na,a.mp4,train,x\na,b.mp4,train,y\n",
            "line 3: 'a' has another uri than in line 2",
        ),
        (
            "video_id,uri,split,captions\na,a.mp4,train,x\na,a.mp4,test,y\n",
            "line 3: 'a' has another split than in line 2",
        ),
        ("video_id,uri,split,captions\na,a.mp4,,x\n", "line 2 has no split"),
        ("video_id,uri,split,captions\na,,train,x\n", "line 2 has no uri"),
        ("video_id,uri,split,captions\na,a.mp4,train\n", "line 2 has 3 cells, and not 4 as the header"),
        ("video_id,uri,split,captions\na,a.mp4,train,x,y\n", "line 2 has 5 cells, and not 4 as the header"),
        ("video_id,uri,split,captions,start_s\na,a.mp4,train,x,soon\n", "'soon' is not a number of seconds"),
        ("video_id,uri,split,captions\na,a.mp4,train,\n", "No row of .* has a caption"),
        ('video_id,uri,split,captions\na,"a.mp4,train,x\n', "not valid CSV"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_explained(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        built(tmp_path, text)


def test_bytes_that_are_no_utf8_are_explained(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"video_id,uri,split,captions\na,a.mp4,train,caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8"):
        from_csv(path, SourceOptions())


# Carving


def test_a_carve_depends_on_ids_and_seed_only():
    ids = [f"video{i}" for i in range(500)]
    shares = {"dev": 0.1, "test": 0.2}
    drawn = dict(zip(ids, carve(ids, shares, 0), strict=True))
    turned = dict(zip(reversed(ids), carve(ids[::-1], shares, 0), strict=True))
    assert turned == drawn
    assert carve(ids[:300], shares, 0) == [drawn[i] for i in ids[:300]]
    assert carve(ids, shares, 1) != list(drawn.values())
    assert list(drawn.values()).count("dev") == pytest.approx(50, abs=20)
    assert list(drawn.values()).count("test") == pytest.approx(100, abs=25)


@pytest.mark.parametrize("shares", [{}, {"dev": 1.0}, {"dev": 0.6, "test": 0.4}, {"dev": -0.1}, {"train": 0.5}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match="share"):
        carve(["a", "b"], shares, 0)


def test_a_carve_that_leaves_a_split_empty_is_refused():
    with pytest.raises(InputError, match="another --seed"):
        carve(["a"], {"dev": 0.5}, 0)


# Reading and writing


def write_raw(tmp_path, columns, metadata=None):
    path = tmp_path / "raw.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def columns_of(*made, **more):
    return {name: [row[name] for row in made] for name in GOOD} | more


def test_a_written_manifest_reads_back_as_it_was(tmp_path):
    table = pa.Table.from_pylist([{**GOOD, "end_s": 2.5, "attributes": [("colour", "red")]}], schema=MANIFEST)
    write_manifest(table, tmp_path / "m.parquet")
    read = load_manifest(tmp_path / "m.parquet")
    assert read.to_pylist() == table.to_pylist()
    assert pq.read_schema(tmp_path / "m.parquet").metadata[VERSION_KEY] == b"1"
    assert splits_of(read) == {"train": {"videos": 1, "captions": 1}}


@pytest.mark.parametrize("name", ["m.csv", "m.TSV", "m.jsonl"])
def test_a_manifest_is_not_written_under_a_name_of_text(tmp_path, name):
    with pytest.raises(InputError, match="such as manifest"):
        write_manifest(pa.Table.from_pylist([GOOD], schema=MANIFEST), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_csv_jsonl_and_parquet_of_the_same_rows_are_the_same_manifest(tmp_path):
    table = pa.Table.from_pylist([GOOD, {**GOOD, "video_id": "b"}], schema=MANIFEST)
    write_manifest(table, tmp_path / "m.parquet")
    lines = [json.dumps({**GOOD, "video_id": name}) for name in "ab"]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    csv_file(tmp_path, "video_id,uri,split,captions\na,/v/a.mp4,train,a cat\nb,/v/a.mp4,train,a cat\n", "m.csv")
    read = [load_manifest(tmp_path / f"m.{suffix}") for suffix in ("parquet", "jsonl", "csv")]
    assert len({content_digest(one) for one in read}) == 1


def test_relative_uris_are_taken_from_the_manifests_folder(tmp_path):
    path = write_raw(tmp_path, columns_of({**GOOD, "uri": "clips/a.mp4"}))
    assert load_manifest(path)["uri"].to_pylist() == [str(tmp_path / "clips" / "a.mp4")]


@pytest.mark.parametrize(
    ("columns", "metadata", "message"),
    [
        (columns_of(), None, "no rows"),
        (columns_of(GOOD, GOOD), None, "video_id 'a' more than once"),
        (columns_of(GOOD, shape=["round"]), None, "column shape, which no manifest has"),
        ({"video_id": ["a"], "uri": ["b"], "split": ["c"]}, None, "has no column captions"),
        (columns_of(GOOD), {VERSION_KEY: b"99"}, "schema version 99"),
        (columns_of(GOOD, video_id=[7]), None, "column video_id holds int64"),
        (columns_of(GOOD, captions=["one"]), None, "column captions holds string"),
        (columns_of(GOOD, captions=[[""]]), None, "empty caption"),
        (columns_of(GOOD, captions=[[None]]), None, "empty caption"),
        (columns_of(GOOD, split=pa.array([None], pa.string())), None, "column split is empty"),
        (columns_of(GOOD, uri=[""]), None, "column uri is empty"),
        (columns_of(GOOD, start_s=[3.0], end_s=[2.0]), None, "clip 3.0 to 2.0"),
        (columns_of(GOOD, start_s=[float("nan")]), None, "clip nan"),
        (columns_of(GOOD, attributes=[{"a": 1}]), None, "column attributes holds struct"),
        (columns_of(GOOD, captions=pa.array([[b"x"]])), None, "column captions holds list<"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_explained(tmp_path, columns, metadata, message):
    with pytest.raises(InputError, match=message):
        load_manifest(write_raw(tmp_path, columns, metadata))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", "no parquet", "not a Parquet file"),
        ("a.jsonl", "{broken", "line 1 is not a JSON object"),
        ("a.jsonl", "[1]", "line 1 is not a JSON object"),
        ("a.jsonl", '{"video_id": 7, "uri": "a", "split": "b", "captions": []}', "wrong type"),
        ("a.jsonl", '{"id": "a"}', "the key id"),
        ("a.csv", "video_id,uri,split,captions,shape\na,a.mp4,train,x,round\n", "column shape"),
    ],
)
def test_a_file_that_is_no_manifest_is_explained(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        load_manifest(csv_file(tmp_path, content, name))


def test_a_missing_manifest_is_explained(tmp_path):
    with pytest.raises(InputError, match="There is no manifest"):
        load_manifest(tmp_path / "nothing.parquet")


# The command


def test_the_command_writes_a_manifest_and_counts(tmp_path):
    path = csv_file(tmp_path, "file,caption\na.mp4,x\nb.mp4,\n")
    out = tmp_path / "m.parquet"
    arguments = [
        str(path),
        "--out",
        str(out),
        "--columns",
        "video_id=file,uri=file,captions=caption",
        "--split",
        "train",
    ]
    result = CliRunner().invoke(manifest_group, ["csv", *arguments])
    assert result.exit_code == 0, result.output
    assert "1 videos without a caption were dropped" in result.output
    assert load_manifest(out)["video_id"].to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "x", "--carve", "dev=0.5"], "one of the two"),
        (["--carve", "dev=half"], "numbers as shares"),
        (["--columns", "uri"], "NAME=VALUE"),
        (["--columns", "url=uri", "--split", "x"], "no column url"),
    ],
)
def test_options_that_cannot_be_used_are_explained(tmp_path, options, message):
    path = csv_file(tmp_path, "video_id,uri,captions\na,a.mp4,x\n")
    result = CliRunner().invoke(manifest_group, ["csv", str(path), "--out", str(tmp_path / "m.parquet"), *options])
    assert result.exit_code == 3
    assert message in result.output
    assert not (tmp_path / "m.parquet").exists()

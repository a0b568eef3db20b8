"""Paths and addresses as people write them."""

from __future__ import annotations

import json
import string
from types import SimpleNamespace
from urllib.parse import unquote

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from gare.common import addresses
from gare.common.addresses import _in_place, advice_on, as_uri, open_address, without_options
from gare.common.errors import InputError
from gare.common.storage import Folder
from gare.config.prepare import PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.ledger import read_ledger
from pipelines.dataset.opening import open_output
from pipelines.decode import DecodeError
from pipelines.decode.isolated.fetching import local_path, suffix_of
from pipelines.manifest.load import load_manifest
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv, from_jsonl
from pipelines.prepare.process_unit import process_unit

REGION = "?region=us-east-1"
LETTERS = string.ascii_letters + string.digits + " !\"#$%&'()*+,-.:;<=>?@[\\]^_`{|}~é日\U0001f600"
KEYS = st.text(st.sampled_from(LETTERS), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(KEYS)
def test_a_key_that_is_no_uri_is_read_letter_by_letter(key):
    assume(any(letter in ' "#<>?[\\]^`{|}é日\U0001f600' for letter in key))
    address = f"s3://bucket/x/{key}.mp4{REGION}"
    assert FileSystem.from_uri(as_uri(address))[1] == f"bucket/x/{key}.mp4"
    assert _in_place(address)[1] == f"bucket/x/{key}.mp4"
    assert as_uri(as_uri(address)) == as_uri(address)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("s3://b/a b.mp4", "b/a b.mp4"),
        ("s3://b/a%20b.mp4", "b/a b.mp4"),
        ("s3://b/a%20b c.mp4", "b/a%20b c.mp4"),
        ("s3://b/100%.mp4", "b/100%.mp4"),
        ("s3://b/100%25.mp4", "b/100%.mp4"),
        ("s3://b/clip #1 (final).mp4", "b/clip #1 (final).mp4"),
        ("s3://b/a#1.mp4", "b/a#1.mp4"),
        ("s3://b/why?.mp4", "b/why?.mp4"),
        ("s3://b/who is this?really.mp4", "b/who is this?really.mp4"),
        ("s3://b/caf\u00e9/\u65e5\u672c.mp4", "b/caf\u00e9/\u65e5\u672c.mp4"),
        ("s3://b/a+b&c=d;e,f'g.mp4", "b/a+b&c=d;e,f'g.mp4"),
        ("s3://b/a[1]{2}|3.mp4", "b/a[1]{2}|3.mp4"),
    ],
)
def test_keys_as_they_are_listed(address, path):
    assert FileSystem.from_uri(as_uri(address + REGION))[1] == path
    assert _in_place(address + REGION)[1] == path
    assert without_options(address + REGION) == (as_uri(address), REGION)


@pytest.mark.parametrize("keep", [False, True])
def test_a_key_that_holds_a_percent_sign_is_found_by_its_letters_where_no_other_is_there(tmp_path, monkeypatch, keep):
    (tmp_path / "bucket").mkdir()
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    kept = {"from_uri": lambda uri: (bucket, unquote(uri.removeprefix("s3://").partition("?")[0]))}
    monkeypatch.setattr("pyarrow.fs.FileSystem", SimpleNamespace(**kept))
    addresses._kept.cache_clear()
    for name, found in (("a%20b.mp4", "bucket/a%20b.mp4"), ("a b.mp4", "bucket/a b.mp4")):
        (tmp_path / "bucket" / name).touch()
        assert open_address(f"s3://bucket/a%20b.mp4{REGION}", keep=keep)[1] == found
    addresses._kept.cache_clear()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///v/a b#1?.mp4", "/v/a b#1?.mp4"),
        ("file:///v/a%20b.mp4", "/v/a b.mp4"),
        ("file:///v/100%.mp4", "/v/100%.mp4"),
        ("file:///v/x?a=b", "/v/x?a=b"),
    ],
)
def test_file_addresses_name_files_by_their_letters_too(uri, path):
    assert str(local_path(uri)) == path
    assert str(Folder.at(uri).local) == path


def test_the_suffix_of_an_odd_key_is_found():
    assert suffix_of(f"s3://b/clip #1.MP4{REGION}") == ".MP4"
    assert suffix_of("s3://b/clip.one?.mkv") == ".mkv"


def test_a_folder_below_an_odd_address_is_below_it():
    folder = Folder.at(f"s3://b/my data/50%{REGION}").below("a split#1")
    assert FileSystem.from_uri(folder.address)[1] == "b/my data/50%/a split#1"


ODD = [
    ("~/videos/a.mp4", "begins with ~/, a home folder that only a shell looks up; write the whole path"),
    ("~anna/a.mp4", "begins with ~anna/, a home folder"),
    ("C:\\videos\\a.mp4", "is a path of Windows; give the path that the file has here"),
    ("d:/videos/a.mp4", "is a path of Windows"),
    ("\\\\server\\share\\a.mp4", "is a path of Windows"),
    ("file:///C:/videos/a.mp4", "is a path of Windows"),
]


@pytest.mark.parametrize(("uri", "advice"), ODD)
def test_paths_of_shells_and_windows_say_what_to_do(tmp_path, uri, advice):
    (tmp_path / "a.jsonl").write_text(json.dumps({"video_id": "a", "uri": uri, "split": "x", "captions": []}) + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl line 1: the uri ") as caught:
        from_jsonl(tmp_path / "a.jsonl", SourceOptions(allow_uncaptioned=True))
    assert advice in str(caught.value)
    (tmp_path / "a.csv").write_text(f"video_id,uri,split,captions\na,{uri},x,y\n")
    for name in ("a.jsonl", "a.csv"):  # in a manifest such a row fails alone
        assert load_manifest(tmp_path / name)["uri"].to_pylist() == [uri]
    with pytest.raises(DecodeError) as failed:
        local_path(uri)
    assert failed.value.kind == "unsupported_uri"
    assert advice in failed.value.message


def test_a_row_of_such_a_path_fails_alone_and_says_what_to_do(tmp_path):
    rows = [{"video_id": uri, "uri": uri, "split": "x", "captions": []} for uri, _ in ODD]
    output = open_output(tmp_path / "out", pa.Table.from_pylist(rows, schema=MANIFEST), PrepareConfig())
    process_unit(output, 0)
    ledger = read_ledger(output, 0)[0]
    assert [row["reason"] for row in ledger] == ["unsupported_uri"] * len(ODD)
    assert all(advice in row["message"] for row, (_, advice) in zip(ledger, ODD, strict=True))


def test_backslashes_where_the_file_is_there_with_slashes_are_told(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.mp4").touch()
    (tmp_path / "a.csv").write_text("video_id,uri,split,captions\na,v\\a.mp4,x,y\n")
    with pytest.raises(InputError, match=r"line 2: .* is written with backslashes; write / between folders"):
        from_csv(tmp_path / "a.csv", SourceOptions())
    uri = load_manifest(tmp_path / "a.csv")["uri"].to_pylist()[0]
    with pytest.raises(DecodeError, match=r"unsupported_uri: .* is written with backslashes"):
        local_path(uri)


@pytest.mark.parametrize("uri", ["~/a.mp4", "~x/a.mp4", "C:/a.mp4", "C:\\a.mp4", "a\\b.mp4"])
def test_a_file_that_is_there_under_such_a_name_is_taken(tmp_path, uri):
    (tmp_path / uri).parent.mkdir(exist_ok=True)
    (tmp_path / uri).touch()
    (tmp_path / "a.csv").write_text(f"video_id,uri,split,captions\na,{uri},x,y\n")
    assert from_csv(tmp_path / "a.csv", SourceOptions()).table["uri"].to_pylist() == [str(tmp_path / uri)]
    assert load_manifest(tmp_path / "a.csv")["uri"].to_pylist() == [str(tmp_path / uri)]


@pytest.mark.parametrize("uri", ["a.mp4", "~a.mp4", "/v/~/a.mp4", "a:b.mp4", "ab:/c.mp4", "s3://b/~/a.mp4", "x/C:/a"])
def test_other_names_are_no_such_paths(uri):
    assert advice_on(uri, "/nowhere") is None

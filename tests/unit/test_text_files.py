"""Text as others save it: byte order marks, gzip, quotes and lines of CSV."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.common import text
from gare.common.errors import ConfigError, InputError
from gare.common.storage import Folder
from gare.config import yaml
from pipelines.manifest.files import CsvForm, csv_rows, json_lines, json_value, text_lines
from pipelines.manifest.load import load_manifest
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv, from_jsonl

HEADER = "video_id,uri,split,captions\n"
ROW = {"video_id": "é", "uri": "a.mp4", "split": "train", "captions": ["ein Hund läuft"]}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark", "utf-32"]


def encoded(content, encoding):
    marked = encoding.removesuffix("-mark")
    return (("\ufeff" if marked != encoding else "") + content).encode(marked)


def ids(made):
    return made.table["video_id"].to_pylist()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_tables_are_read_in_the_encoding_of_their_mark(tmp_path, encoding, packed):
    pack = gzip.compress if packed else bytes
    table, lines = f'{HEADER}é,a.mp4,train,"ein Hund\nläuft"\n', json.dumps(ROW, ensure_ascii=False) + "\n"
    (tmp_path / "a.csv.gz").write_bytes(pack(encoded(table, encoding)))
    (tmp_path / "a.tsv").write_bytes(pack(encoded(table.replace(",", "\t"), encoding)))
    (tmp_path / "a.jsonl.gz").write_bytes(pack(encoded(lines, encoding)))
    for name in ("a.csv.gz", "a.tsv"):
        made = from_csv(tmp_path / name, SourceOptions()).table.to_pylist()
        assert [(row["video_id"], row["captions"]) for row in made] == [("é", ["ein Hund\nläuft"])]
        assert load_manifest(tmp_path / name).to_pylist() == made
    made = from_jsonl(tmp_path / "a.jsonl.gz", SourceOptions()).table.to_pylist()
    assert [(row["video_id"], row["captions"]) for row in made] == [("é", ROW["captions"])]
    assert load_manifest(tmp_path / "a.jsonl.gz").to_pylist() == made


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_other_texts_too(tmp_path, encoding):
    path = tmp_path / "text"
    path.write_bytes(encoded("é: 1\r\nb: 2\r\n", encoding))
    assert text_lines(path) == ["é: 1", "b: 2"]
    assert yaml.read(path) == {"é": 1, "b": 2}
    assert Folder.at(tmp_path).read_text("text") == "é: 1\r\nb: 2\r\n"
    path.write_bytes(encoded('{"é": 1}', encoding))
    assert json_value(path) == {"é": 1}


def test_utf_16_without_a_mark_is_one_sentence(tmp_path):
    (tmp_path / "a.csv").write_bytes((HEADER + "a,a.mp4,train,x\n").encode("utf-16-le"))
    with pytest.raises(InputError, match=r"a\.csv is not UTF-8 text; save it as UTF-8"):
        from_csv(tmp_path / "a.csv", SourceOptions())
    (tmp_path / "a.yaml").write_bytes("a: 1\n".encode("utf-16-be"))
    with pytest.raises(ConfigError, match="Cannot read the config file"):
        yaml.read(tmp_path / "a.yaml")


def test_a_damaged_gzip_file_is_one_sentence_wherever_it_ends(tmp_path):
    whole = gzip.compress((HEADER + "".join(f"v{n},a.mp4,train,x{n * n}\n" for n in range(999))).encode())
    for length in range(3, len(whole) - 1, 211):
        (tmp_path / "a.csv").write_bytes(whole[:length])
        with pytest.raises(InputError, match="is gzipped and damaged, or cut off"):
            from_csv(tmp_path / "a.csv", SourceOptions())
    for content in (whole[:200] + b"\xff" * 40 + whole[240:], whole[:-8] + bytes(8)):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(InputError):
            from_csv(tmp_path / "a.csv", SourceOptions())


def test_a_small_file_that_unpacks_to_one_endless_line_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LINE_CHARACTERS", 10_000)
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(b"x" * 2**20) for _ in range(64)) + packer.flush()
    for name, read in (("a.csv", from_csv), ("a.jsonl", from_jsonl)):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(InputError, match=rf"{name} line 1 is longer than 10,000 characters"):
            read(tmp_path / name, SourceOptions())


def any_header(_header):
    """Take whatever columns there are."""


CELL = st.text(st.sampled_from('ab ,"\n\r\t'), max_size=6)


@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_a_row_has_the_line_on_which_it_starts(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    starts = []
    with io.StringIO(newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["a", "b"])
        for row in cells:
            starts.append(1 + len(stream.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]))
            writer.writerow(row)
        path.write_bytes(stream.getvalue().encode())
    rows = list(csv_rows(path, any_header))
    assert [(line, tuple(row.values())) for line, row in rows] == list(zip(starts, cells, strict=True))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a,a.mp4,train,"unclosed\nb,b.mp4,train,y\n', "line 2 is not valid CSV: a quote is opened and never closed"),
        ('a,a.mp4,train,"two\nlines"\n\nb,b.mp4,train\n', "line 5 has 3 cells, and not 4 as the header"),
        ('a,a.mp4,train,"two\nlines"\nb,,train,"three\nmore\nlines"\n', "line 4 has no uri"),
        ('a,a.mp4,train,"x" y\n', "line 2 is not valid CSV: ',' expected after '\"'"),
        ('a,a.mp4,train,"two\nlines"\na,b.mp4,train,x\n', "line 4: 'a' has another uri than in line 2"),
    ],
)
def test_messages_name_the_line_on_which_the_row_starts(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text(HEADER + rows)
    with pytest.raises(InputError, match=message):
        from_csv(tmp_path / "a.csv", SourceOptions())


def test_the_messages_of_the_examples(fixtures_dir):
    faults = fixtures_dir / "faults/15-csv-messages"
    with pytest.raises(InputError, match="line 2 is not valid CSV"):
        from_csv(faults / "unclosed.csv", SourceOptions())
    assert from_csv(faults / "spaces.csv", SourceOptions()).table.to_pylist()[0]["captions"] == ["a dog, running"]


def test_spaces_behind_the_commas_of_the_header_and_the_cells_do_not_count(tmp_path):
    (tmp_path / "a.csv").write_text('video_id, "uri", split ,captions, note\n a, a.mp4, train, "a dog, runs", "x, y"\n')
    row = from_csv(tmp_path / "a.csv", SourceOptions(attributes=("note",))).table.to_pylist()[0]
    assert (row["video_id"], row["uri"], row["split"]) == ("a", str(tmp_path / "a.mp4"), "train")
    assert (row["captions"], row["attributes"]) == (["a dog, runs"], [("note", "x, y")])


def test_columns_that_are_lacking_are_named_so_that_it_shows_why(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({" uri": "a", "video_id": "a", "": 1}) + "\n")
    with pytest.raises(InputError, match="no column uri, captions; its columns are ' uri', video_id, ''"):
        from_jsonl(tmp_path / "a.jsonl", SourceOptions(split="x"))


def test_quotes_of_an_unquoted_file_are_text(tmp_path):
    (tmp_path / "a.tsv").write_text('"Go," he says\ta.mp4\n5" screen\tb.mp4\na "b"\tc.mp4\n"\td.mp4\n')
    options = {"header": ("captions", "uri"), "columns": {"video_id": "uri"}, "split": "train"}
    made = from_csv(tmp_path / "a.tsv", SourceOptions(unquoted=True, **options)).table.to_pylist()
    assert [row["captions"][0] for row in made] == ['"Go," he says', '5" screen', 'a "b"', '"']
    assert [row["video_id"] for row in made] == list("abcd")
    with pytest.raises(InputError, match=r"line 1 is not valid CSV: .* gare manifest csv --unquoted reads it"):
        from_csv(tmp_path / "a.tsv", SourceOptions(**options))


def test_only_cells_of_csv_lose_the_spaces_around_them(tmp_path):
    row = {"video_id": " a", "uri": " a.mp4", "split": "train", "captions": " x "}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "a.csv").write_text(HEADER + " a, a.mp4,train, x \n")
    assert ids(from_jsonl(tmp_path / "a.jsonl", SourceOptions())) == [" a"]
    assert from_jsonl(tmp_path / "a.jsonl", SourceOptions()).table["uri"].to_pylist() == [str(tmp_path / " a.mp4")]
    made = from_csv(tmp_path / "a.csv", SourceOptions()).table
    assert (made["video_id"].to_pylist(), made["uri"].to_pylist()) == (["a"], [str(tmp_path / "a.mp4")])


def test_a_form_may_be_given_to_the_reader_itself(tmp_path):
    (tmp_path / "a").write_text("1;'x'\n\n2;y\n")
    assert list(csv_rows(tmp_path / "a", any_header, CsvForm(";", header=("n", "t")))) == [
        (1, {"n": "1", "t": "'x'"}), (3, {"n": "2", "t": "y"}),
    ]  # fmt: skip
    (tmp_path / "b").write_text('\ufeff{"a": 1}\n\n[]\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 3 is not a JSON object"):
        list(json_lines(tmp_path / "b"))

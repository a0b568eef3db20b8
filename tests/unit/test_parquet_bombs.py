"""Parquet of a few KB that stands for gigabytes is a sentence, and takes no gigabyte to find out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common.errors import InputError
from gare.common.parquet import BATCH_ROWS, BoundedParquet
from gare.schema import MANIFEST
from pipelines.manifest.load import load_manifest

ROOT = Path(__file__).parents[2]
LONG = "x" * 2**20


def repeated(value: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [value])


def lists(values: pa.Array, rows: int) -> pa.Array:
    each = len(values) // rows
    return pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, each), pa.int32()), values)


def table(rows: int, **columns: pa.Array) -> pa.Table:
    plain = {"video_id": repeated("v", rows), "uri": repeated("v.mp4", rows), "split": repeated("train", rows),
             "captions": lists(repeated("a cat", rows), rows)}  # fmt: skip
    return pa.table(plain | columns)


BOMBS = {
    "a long text on every row": lambda: [table(32, split=repeated(LONG, 32))] * 64,
    "a long caption on every row": lambda: [table(32, captions=lists(repeated(LONG, 32), 32))] * 64,
    "millions of captions in a row": lambda: [table(1, captions=lists(repeated("a cat on a mat", 9_000_000), 1))],
    "thousands of long captions in a row": lambda: [table(1, captions=lists(repeated("y" * 9_999, 9_000), 1))] * 16,
    "millions of equal rows": lambda: [table(6_000_000)],
    "a long value of fixed length": lambda: [table(8, uri=pa.array([LONG.encode()] * 8, pa.binary(2**20)))] * 150,
}
CODE = """
import resource, sys
from pathlib import Path
from gare.common.errors import InputError
from pipelines.manifest.load import stream_manifest
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_parquet
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]),) * 2)
for read in (lambda: list(stream_manifest(sys.argv[1])), lambda: from_parquet(Path(sys.argv[1]), SourceOptions())):
    try:
        read()
        print("READ")
    except InputError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def bombs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in BOMBS.items():
        parts = make()
        with pq.ParquetWriter(
            folder / f"{name}.parquet", parts[0].schema, compression="zstd", store_schema=False
        ) as writer:
            for part in parts:
                for batch in part.to_batches():
                    writer.write_batch(batch)  # into one row group
    return folder


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unfolds_to_gigabytes_is_a_sentence_within_a_gigabyte(bombs, name):
    path = bombs / f"{name}.parquet"
    assert path.stat().st_size < 400_000
    command = [sys.executable, "-c", CODE, str(path), str(2**30)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    as_manifest, as_source = done.stdout.splitlines()
    assert any(text in as_manifest for text in ("unfolds to", "are the most", "fixed_size_binary")), as_manifest
    assert any(text in as_source for text in ("unfolds to", "are the most", "are not read")), as_source


@pytest.mark.parametrize(
    "form",
    [{}, {"row_group_size": 777}, {"use_dictionary": False}, {"data_page_version": "2.0", "compression": "gzip"},
     {"use_dictionary": False, "column_encoding": {"video_id": "DELTA_BYTE_ARRAY"}}],
    ids=str,
)  # fmt: skip
def test_what_is_no_bomb_is_read_as_it_was_written(tmp_path, form):
    rows = [
        {
            "video_id": f"v{n}",
            "uri": f"/v{n}.mp4",
            "split": "train",
            "captions": [f"{n} {k} " + "x" * n for k in range(n % 4)],
            "start_s": 0.5 if n % 2 else None,
            "end_s": 2.5,
            "attributes": [("a", str(n)), ("b", None)] if n % 3 else None,
        }
        for n in range(2 * BATCH_ROWS)
    ]
    whole = pa.Table.from_pylist(rows, MANIFEST)
    pq.write_table(whole, tmp_path / "whole.parquet", **form)
    assert load_manifest(tmp_path / "whole.parquet").equals(whole)


def test_texts_that_are_stored_as_differences_are_unfolded_in_a_process_that_cannot_grow(tmp_path):
    path, other = tmp_path / "few.parquet", tmp_path / "bomb.parquet"
    form = {"use_dictionary": False, "column_encoding": {"captions.list.element": "DELTA_BYTE_ARRAY"}}
    for file, rows in ((path, [["a cat", "a cap"]] * 9), (other, [[LONG] * 15] * 20)):
        pq.write_table(pa.table({"captions": rows}), file, compression="zstd", **form)
    assert other.stat().st_size < 400_000
    with path.open("rb") as stream:
        assert BoundedParquet(stream, "it", path).read()["captions"].to_pylist() == [["a cat", "a cap"]] * 9
    with other.open("rb") as stream, pytest.raises(InputError, match="unfolds to"):
        BoundedParquet(stream, "it", other).read()


def test_a_bomb_beside_values_without_a_dictionary_is_a_sentence_too(tmp_path):
    rows = [[LONG] * 15] * 20 + [[f"{n} " + "x" * 4000] for n in range(500)]
    path = tmp_path / "it.parquet"
    pq.write_table(pa.table({"captions": rows}), path, compression="zstd", dictionary_pagesize_limit=2**21)
    with path.open("rb") as stream, pytest.raises(InputError, match="unfolds to"):
        BoundedParquet(stream, "it", path).read()


def test_pages_that_decompress_to_gigabytes_are_a_sentence(tmp_path):
    path = tmp_path / "it.parquet"
    pq.write_table(pa.table({"captions": [LONG] * 300}), path, compression="zstd", use_dictionary=False)
    with path.open("rb") as stream, pytest.raises(InputError, match="unfolds to"):
        BoundedParquet(stream, "it", path).read()

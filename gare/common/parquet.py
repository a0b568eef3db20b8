"""Read Parquet from untrusted writers: in bounded pieces, and never more than the file's size makes likely.

Run lengths and dictionaries let a file of a few KB unfold to gigabytes. Texts therefore stay dictionaries until their
size is known.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gare.common.errors import InputError

BATCH_ROWS: Final = 4096
PIECE_BYTES: Final = 64 * 2**20
"""Most bytes unfolded at once."""
VALUE_BYTES: Final = 64
"""Bytes counted for a value in addition to its text: about the size of a Python object."""
ALWAYS_BYTES: Final = 256 * 2**20
MOST_TIMES: Final = 512
"""A file may unfold to ALWAYS_BYTES plus MOST_TIMES its own size."""
CHILD_BYTES: Final = 2**30
"""Private memory of the process that unfolds data without a dictionary to measure it by."""
NOT_YET: Final = "Not yet implemented"
LONGEST_FIXED: Final = 64
"""Most bytes of a value of fixed length: decimals have up to 32."""


class BoundedParquet:
    """A Parquet file, read a piece at a time.

    Args:
        source: the file, open for reading in binary.
        where: its name in messages.
        path: the file's path. Without it, texts that are stored as differences are not read.
        options: options of ``pyarrow.parquet.ParquetFile``.

    Raises:
        ArrowException: for a file that is not Parquet.
        InputError: for a file that unfolds to more than its size makes likely.
    """

    def __init__(self, source: IO[bytes], where: str, path: Path | None = None, **options: Any) -> None:
        self._where, self._path = where, path
        self._most = ALWAYS_BYTES + MOST_TIMES * source.seek(0, os.SEEK_END)
        plain = pq.ParquetFile(source, **options)
        self.schema: pa.Schema = plain.schema_arrow
        self._leaves = [plain.schema.column(number) for number in range(len(plain.schema))]
        texts = [leaf.path for leaf in self._leaves if leaf.physical_type == "BYTE_ARRAY"]
        self._file = pq.ParquetFile(source, metadata=plain.metadata, read_dictionary=texts, **options)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, of some columns or all, in batches of at most BATCH_ROWS and about PIECE_BYTES."""
        self._check_columns(columns)
        come = 0
        for group in range(self._file.num_row_groups):
            for batch in self._of_group(group, columns):
                come += _cost_of(batch)
                if come > self._most:
                    raise self._too_much(come)
                for piece in _pieces(batch):
                    schema = pa.schema([_plain_field(field) for field in piece.schema], piece.schema.metadata)
                    yield piece.cast(schema)

    def read(self) -> pa.Table:
        """Read the whole file, with texts as plain ones."""
        batches = list(self.batches())
        return pa.Table.from_batches(batches) if batches else self.schema.empty_table()

    def _of_group(self, group: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        done = 0
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                yield batch
                done += 1
        except (pa.ArrowNotImplementedError, OSError) as error:
            # Mostly texts that are stored as differences to the one before.
            if self._path is None or not (isinstance(error, pa.ArrowNotImplementedError) or NOT_YET in str(error)):
                raise
            yield from islice(self._from_child(group, columns), done, None)

    def _from_child(self, group: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Unfold a row group in a process that cannot grow beyond CHILD_BYTES."""
        command = [sys.executable, "-P", "-m", "gare.common.parquet", str(self._path), json.dumps([group, columns])]
        paths = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths}
        ) as child:
            try:
                with pa.ipc.open_stream(child.stdout) as stream:
                    yield from stream
            except (pa.ArrowException, EOFError, OSError):
                raise self._too_much(CHILD_BYTES) from None
            finally:
                child.kill()

    def _check_columns(self, columns: Sequence[str] | None) -> None:
        """Check the sizes in the columns' metadata before reading any value."""
        metadata, come = self._file.metadata, self._file.metadata.num_rows * VALUE_BYTES
        for number, leaf in enumerate(self._leaves):
            if columns is not None and leaf.path.partition(".")[0] not in columns:
                continue
            fixed = leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > LONGEST_FIXED
            if fixed or (leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "DECIMAL"):
                raise InputError(f"{self._where}: the column {leaf.path} holds values that are not read; leave it out.")
            for group in range(metadata.num_row_groups):
                chunk = metadata.row_group(group).column(number)
                come += max(chunk.num_values * VALUE_BYTES, chunk.total_uncompressed_size)
        if come > self._most:
            raise self._too_much(come)

    def _too_much(self, come: int) -> InputError:
        return InputError(
            f"{self._where} is a Parquet file that unfolds to {come:,} bytes or more, and {self._most:,} are the most "
            "for one of its size; it is damaged, or made to fill the memory. Write what it holds as CSV."
        )


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into pieces of at most PIECE_BYTES, or of one row."""
    if batch.num_rows > 1 and _cost_of(batch) > PIECE_BYTES:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half))
        yield from _pieces(batch.slice(half))
    else:
        yield batch


def _cost_of(batch: pa.RecordBatch) -> int:
    return sum(map(_cost, batch.columns))


def _cost(array: pa.Array) -> int:
    """Return an array's size in bytes, unfolded and as Python values."""
    if not len(array):
        return 0
    own = VALUE_BYTES * len(array)
    if pa.types.is_dictionary(array.type):
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return own + (pc.sum(lengths).as_py() or 0)
    parts = _parts(array)
    return own + (sum(map(_cost, parts)) if parts else array.nbytes)


def _parts(array: pa.Array) -> list[pa.Array]:
    """Return the columns inside a nested one, limited to its own rows."""
    kind = array.type
    if pa.types.is_struct(kind):
        return list(array.flatten())
    if pa.types.is_map(kind):
        start, stop = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        return [array.keys.slice(start, stop - start), array.items.slice(start, stop - start)]
    return [array.flatten()] if pa.types.is_nested(kind) else []


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    for is_kind, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_kind(kind):
            return make(_plain_field(kind.value_field))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _unfold(path: str, group: int, columns: Sequence[str] | None) -> None:
    """Write a row group to standard output as an Arrow stream; fails if it does not fit into CHILD_BYTES."""
    resource.setrlimit(resource.RLIMIT_DATA, (CHILD_BYTES, CHILD_BYTES))
    file = pq.ParquetFile(path, memory_map=True)
    writer = None
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
        writer = writer or pa.ipc.new_stream(sys.stdout.buffer, batch.schema)
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


if __name__ == "__main__":
    _unfold(sys.argv[1], *json.loads(sys.argv[2]))

"""The folder's own manifest: cut into units at the start, and extended when the corpus grows."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gare.common.errors import InputError
from gare.common.files import canonical_json
from gare.common.storage import Folder
from gare.schema import MANIFEST
from pipelines.dataset.layout import MANIFEST_FILE, Units
from pipelines.manifest.rows import CHECK_ROWS, rows_of

SCRATCH_ROWS = 1024
HALF = 2**64 - 1


@dataclass(frozen=True)
class Kept:
    """The folder's copy of the manifest: the SHA-256 over its rows, their number, and how many of them are new."""

    sha256: str
    rows: int
    new: int


def start_manifest(place: Folder, tables: Iterable[pa.Table], unit_videos: int) -> Kept:
    """Cut manifest rows into units of ``unit_videos`` and store them, with a bounded number in memory at once."""
    return _write(place, _cut(tables, unit_videos))


def grow_manifest(place: Folder, tables: Iterable[pa.Table], unit_videos: int) -> Kept:
    """Compare a manifest with the stored one, and add the new rows as units of their own.

    Stored rows keep their order. Raises InputError unless all of them are still in the manifest, unchanged.
    """
    units = open_units(place)
    there = _Rows(units)
    with tempfile.TemporaryDirectory(prefix="gare-") as scratch:
        path = Path(scratch) / "new.arrow"
        with _Scratch(path) as more:
            for table in tables:
                for row in there.unknown(table):
                    more.add(row)
        missing = there.missing()
        if missing is not None:
            raise InputError(
                f"{place} was made from another manifest: its row {missing!r} was changed in this one, or removed. "
                "Only new rows can be added. Give another --out, or remove the folder to start over."
            )
        if not more.count:
            return Kept(there.sha256, there.count, 0)
        with pa.memory_map(str(path)) as source:
            added = pa.ipc.open_file(source)
            tables = (pa.Table.from_batches([added.get_batch(n)]) for n in range(added.num_record_batches))
            grown = _write(place, _both(units, _cut(tables, unit_videos)))
        return Kept(grown.sha256, grown.rows, more.count)


class _Rows:
    """The stored rows, identified by a digest of 16 bytes each; a manifest may have millions.

    Rows are found by half of the digest, and in the end the sums of the whole digests must agree.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        halves, whole = array("Q"), hashlib.sha256()
        self._sum = self.count = 0
        for unit in range(len(units)):
            for row in rows_of(units.batch(unit)):
                text = _text(row)
                whole.update(text)
                digest = _digest(text)
                halves.append(digest & HALF)
                self._sum += digest
                self.count += 1
        self.sha256 = whole.hexdigest()
        self._halves = np.frombuffer(halves, np.uint64)
        self._order = np.argsort(self._halves, kind="stable")
        self._sorted = self._halves[self._order]
        self._seen = np.zeros(self.count, bool)

    def unknown(self, table: pa.Table) -> Iterator[dict[str, Any]]:
        """Yield the rows that are not stored, and mark the others as seen."""
        rows = list(rows_of(table))
        digests = [_digest(_text(row)) for row in rows]
        halves = np.array([digest & HALF for digest in digests], np.uint64)
        places = np.searchsorted(self._sorted, halves).clip(max=self.count - 1)
        known = self._sorted[places] == halves
        self._seen[self._order[places[known]]] = True
        for row, digest, is_known in zip(rows, digests, known.tolist(), strict=True):
            if is_known:
                self._sum -= digest
            else:
                yield row

    def missing(self) -> str | None:
        """Return the id of a stored row that was not seen; None if all were."""
        if self._sum == 0:
            return None
        position = int(np.argmin(self._seen))  # the first that was not seen
        for unit in range(len(self._units)):
            batch = self._units.batch(unit)
            if position < batch.num_rows:
                return str(batch.column("video_id")[position])
            position -= batch.num_rows
        return None


def open_units(place: Folder) -> Units:
    """Open the stored manifest's units after checking every byte. Raises InputError if it is damaged or unreadable."""
    for _ in range(2):
        try:
            units = Units(place)
            batches = (units.batch(unit) for unit in range(len(units)))
            if units.schema.equals(MANIFEST) and len(units) and all(map(_is_sound, batches)):
                return units
        except (OSError, ValueError, pa.ArrowException):
            place.sha256(MANIFEST_FILE)  # raises a storage error, which is not damage
    raise InputError(
        f"{place.named(MANIFEST_FILE)} is damaged. Nothing was changed; put the file back, or prepare into another "
        "folder."
    )


def _is_sound(batch: pa.RecordBatch) -> bool:
    """Return True if rows are valid manifest rows; raise pyarrow's error if they are not even rows."""
    batch.validate(full=True)  # unchecked offsets of a damaged file could crash the process
    captions, times = batch.column("captions"), [batch.column(name) for name in ("start_s", "end_s")]
    missing = any(batch.column(field.name).null_count for field in MANIFEST if not field.nullable)
    finite = all(pc.all(pc.is_finite(column), min_count=0).as_py() for column in times)
    return bool(batch.num_rows and finite and not missing and not captions.flatten().null_count)


def _write(place: Folder, batches: Iterable[pa.RecordBatch]) -> Kept:
    digest, count = hashlib.sha256(), 0
    with place.writing(MANIFEST_FILE) as temporary, pa.ipc.new_file(str(temporary), MANIFEST) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
            for row in rows_of(batch):
                digest.update(_text(row))
    return Kept(digest.hexdigest(), count, count)


def _both(units: Units, more: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for unit in range(len(units)):
        yield units.batch(unit)
    yield from more


def _cut(tables: Iterable[pa.Table], size: int) -> Iterator[pa.RecordBatch]:
    """Cut tables of any length into batches of ``size`` rows; the last one may be shorter."""
    rest = MANIFEST.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table.select(MANIFEST.names)])
        whole = rest.num_rows - rest.num_rows % size
        yield from _batches(rest.slice(0, whole), size)
        rest = rest.slice(whole)
        if rest.num_rows < CHECK_ROWS:  # small slices keep their whole tables in memory
            rest = rest.take(pa.array(range(rest.num_rows), pa.int64()))
    yield from _batches(rest, size)


def _batches(table: pa.Table, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, table.num_rows, size):
        yield table.slice(start, size).combine_chunks().to_batches()[0]


def _text(row: dict[str, Any]) -> bytes:
    """Encode one row for the digest of ``pipelines.manifest.content_digest``."""
    return canonical_json(row).encode() + b"\n"


def _digest(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


class _Scratch:
    """Manifest rows set aside in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, list[dict[str, Any]]()
        self.count = 0

    def __enter__(self) -> _Scratch:
        with ExitStack() as stack:
            self._writer = stack.enter_context(pa.ipc.new_file(str(self._path), MANIFEST))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._flush()
        self._open.close()

    def add(self, row: dict[str, Any]) -> None:
        """Set one row aside."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == SCRATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=MANIFEST))
            self._rows = []

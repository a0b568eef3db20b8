"""The ledger: a Parquet part per work unit, written last, which says that the unit is finished and by which shards."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gare.common.errors import InputError
from gare.common.files import canonical_json
from gare.schema import LEDGER, LEDGER_FOLDER, RECIPE_KEY, SCHEMA_VERSION, SHARD_FOLDER, VERSION_KEY, stamped
from pipelines.output.layout import RECIPE_FILE, Output, ShardFile, unit_name

SHARDS_KEY = b"gare.shards"
GENERATION_KEY = b"gare.generation"
SAME_AS_MANIFEST = ("video_id", "uri", "split")
READERS = 16
"""Threads that read ledger parts ahead: an object store answers in tens of milliseconds, and there may be 100,000."""


@dataclass(frozen=True)
class Part:
    """A finished unit: its ledger rows (schema LEDGER), its shards, and how often rows of it were done again."""

    table: pa.Table
    shards: list[ShardFile]
    generation: int


def write_ledger(
    output: Output, unit: int, rows: list[dict[str, Any]], shards: Iterable[ShardFile], generation: int = 0
) -> None:
    """Commit a unit: its ledger part, naming its shards."""
    schema = stamped(LEDGER, recipe_digest=output.digest, unit=unit)
    listed = canonical_json([asdict(shard) for shard in shards]).encode()
    more = {SHARDS_KEY: listed, GENERATION_KEY: str(generation).encode()}
    schema = schema.with_metadata({**schema.metadata, **more})
    with output.place.writing(output.ledger_name(unit)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, write_page_checksum=True)


class Ledger:
    """The ledger parts of a folder, as they lie there now; the shards' sizes are listed once."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._sizes = output.place.sizes(SHARD_FOLDER)

    def finished(self, unit: int) -> Part | None:
        """A unit's part; None unless the unit is finished."""
        try:
            return self.part(unit)
        except InputError:
            return None

    def each(self) -> Iterator[Part | None]:
        """As ``finished``, of every unit in order; files that do not lie here are read ahead by threads."""
        units = iter(range(self._output.units()))
        if self._output.place.is_local:
            yield from map(self.finished, units)
            return
        with ThreadPoolExecutor(READERS) as pool:
            try:
                ahead = deque((unit, pool.submit(self._read, unit)) for unit in islice(units, 4 * READERS))
                while ahead:
                    unit, read = ahead.popleft()
                    ahead.extend((more, pool.submit(self._read, more)) for more in islice(units, 1))
                    try:
                        part = self._checked(unit, read.result())
                    except InputError:
                        part = None
                    yield part
            finally:
                pool.shutdown(cancel_futures=True)

    def part(self, unit: int) -> Part:
        """A finished unit's part; InputError that says why it is not finished.

        Finished: the part carries this recipe, covers exactly the unit's manifest rows, and its shards are there in
        their full size.
        """
        return self._checked(unit, self._read(unit))

    def _checked(self, unit: int, table: pa.Table) -> Part:
        name = self._output.place.named(self._output.ledger_name(unit))
        metadata = table.schema.metadata or {}
        if metadata.get(RECIPE_KEY) != self._output.digest.encode():
            raise InputError(f"The ledger part {name} was made by another recipe than {RECIPE_FILE} says.")
        if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION).encode() or not table.schema.equals(LEDGER):
            raise InputError(f"The ledger part {name} has another schema version or other columns.")
        shards, generation = _listed(name, metadata)
        for shard in shards:
            self._check_size(shard)
        batch = self._output.batch(unit)
        if not all(table[column].combine_chunks().equals(batch.column(column)) for column in SAME_AS_MANIFEST):
            raise InputError(f"The ledger part {name} does not hold the rows of the manifest, in their order.")
        return Part(table, shards, generation)

    def _read(self, unit: int) -> pa.Table:
        name = self._output.place.named(self._output.ledger_name(unit))
        try:
            with self._output.place.source(self._output.ledger_name(unit)) as source:
                table = pq.ParquetFile(source, page_checksum_verification=True).read()
                table.validate(full=True)
                return table
        except FileNotFoundError:
            raise InputError(f"Unit {unit} has no ledger part {name}.") from None
        except (OSError, ValueError, pa.ArrowException) as error:  # a ValueError: names that are no UTF-8
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"The ledger part {name} cannot be read: {reason}.") from None

    def _check_size(self, shard: ShardFile) -> None:
        name, size = self._output.place.named(f"{SHARD_FOLDER}/{shard.file}"), self._sizes.get(shard.file)
        if size is None:
            raise InputError(f"The shard {name} is missing.")
        if size != shard.bytes:
            raise InputError(f"The shard {name} has {size} bytes, not {shard.bytes} as recorded.")


def read_ledger(output: Output, unit: int) -> tuple[list[dict[str, Any]], list[ShardFile]] | None:
    """Read one unit's ledger rows and shards; None unless the unit is finished."""
    part = Ledger(output).finished(unit)
    return None if part is None else (part.table.to_pylist(), part.shards)


def remove_leftovers(output: Output, unfinished: Collection[int]) -> None:
    """Remove what an interrupted run left of the unfinished units."""
    stems = {unit_name(unit) for unit in unfinished}
    for folder in (SHARD_FOLDER, LEDGER_FOLDER):
        for name in output.place.names(folder):
            if name.lstrip(".")[: len(unit_name(0))] in stems:
                output.place.remove(f"{folder}/{name}")


def remove_superseded(output: Output, listed: Collection[str]) -> None:
    """Remove the shards that no ledger part names any more: earlier generations of units that were done again."""
    for name in output.place.names(SHARD_FOLDER):
        if name.lstrip(".").startswith("unit-") and name not in listed:
            output.place.remove(f"{SHARD_FOLDER}/{name}")


def _listed(name: str, metadata: Mapping[bytes, bytes]) -> tuple[list[ShardFile], int]:
    try:
        shards = [ShardFile(**entry) for entry in json.loads(metadata[SHARDS_KEY])]
        generation = int(metadata.get(GENERATION_KEY, b"0"))
        if all(isinstance(shard.file, str) and Path(shard.file).name == shard.file for shard in shards):
            return shards, generation
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(f"The ledger part {name} does not list its shards.")

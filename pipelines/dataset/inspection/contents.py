"""Read a folder of ``gare prepare`` as it is, finished or not, damaged or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gare.common.dataset_file import read_shard
from gare.common.errors import InputError
from gare.common.records import load_json
from gare.schema import DATASET_FILE
from pipelines.dataset.layout import Output, ShardFile
from pipelines.dataset.ledger import Ledger, Unfinished
from pipelines.dataset.opening import existing_output
from pipelines.dataset.shard_rows import LIGHT


@dataclass(frozen=True)
class Unit:
    """A finished work unit: its ledger rows and its shards, as its ledger part lists them."""

    number: int
    ledger: list[dict[str, Any]]
    shards: list[ShardFile]


@dataclass
class Contents:
    """The readable contents of a folder.

    ``unfinished``: unit -> why it is not finished; ``tables``: shard name -> its memory-mapped table; ``damaged``: a
    sentence per unreadable shard; ``dataset``: the dataset manifest, None if there is none.
    """

    output: Output
    dataset: dict[str, Any] | None
    units: list[Unit] = field(default_factory=list)
    unfinished: dict[int, str] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder's path."""
        return self.output.folder

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The ledger rows of all finished units."""
        return [row for unit in self.units for row in unit.ledger]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the shards' rows without their frames; ``frames`` is the number of frames."""
        for table in self.tables.values():
            counts = pc.list_value_length(table["frames"]).to_pylist()
            for row, count in zip(table.select(LIGHT).to_pylist(), counts, strict=True):
                yield {**row, "frames": count}

    def remark(self) -> str | None:
        """Say what is missing and how to continue; return None if the folder is complete."""
        total = len(self.units) + len(self.unfinished)
        if self.unfinished:
            first, why = next(iter(self.unfinished.items()))
            return (
                f"{len(self.unfinished)} of {total} work units are not finished, unit {first} first ({why}) "
                "The same gare prepare command continues with them."
            )
        if self.dataset is None and not any(row["status"] == "ok" for row in self.ledger):
            return f"All {total} work units are finished, but no video could be decoded: there is nothing to train on."
        if self.dataset is None:
            return (
                f"All {total} work units are finished, but {DATASET_FILE} is missing; the same gare prepare command "
                "again writes it."
            )
        return None


def read_contents(folder: Path) -> Contents:
    """Read the contents of a folder. Raises InputError if it is not a folder of ``gare prepare``."""
    output = existing_output(folder)
    contents = Contents(output, _dataset(folder))
    ledger = Ledger(output)
    for number in range(output.units()):
        try:
            part = ledger.part(number)
            contents.units.append(Unit(number, part.table.to_pylist(), part.shards))
        except Unfinished as error:
            contents.unfinished[number] = str(error)
    for shard in (shard for unit in contents.units for shard in unit.shards):
        try:
            table = read_shard(output.shards / shard.file, recipe_digest=output.digest, rows=shard.rows)
            contents.tables[shard.file] = table
        except InputError as error:
            contents.damaged.append(str(error))
    return contents


def _dataset(folder: Path) -> dict[str, Any] | None:
    path = folder / DATASET_FILE
    if not path.is_file():
        return None
    try:
        values = load_json(path.read_bytes())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged; the same gare prepare command writes it again.")
    return values

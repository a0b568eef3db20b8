"""Layout of the output folder of prepare, its recipe, and the work units of its manifest.

A unit's ledger part is written last, so it is the unit's commit: its metadata lists the shards that belong to it.
The folder also keeps its manifest (``manifest.arrow``, one record batch per unit) and its recipe (``recipe.json``).
Both are written first, so that an interrupted folder is identified. Older folders lack settings that were added later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from gare.common.errors import InputError
from gare.common.files import digest_of
from gare.common.records import STRICT, checked
from gare.common.storage import Folder
from gare.config.prepare import BEFORE, UNSAID, PrepareConfig
from gare.schema import LEDGER_FOLDER, SCHEMA_VERSION, SHARD_FOLDER
from pipelines.manifest.rows import rows_of

Lacking = frozenset[str]
"""Settings that a stored recipe lacks. Its frames cannot be made again, as colours were then converted differently."""


def read_recipe(values: Mapping[str, Any]) -> tuple[PrepareConfig, Lacking]:
    """Read a stored recipe, and what it lacks of ``BEFORE``. Raises ValueError if it is not a valid recipe."""
    recipe = PrepareConfig.model_validate_json(json.dumps({**BEFORE, **values}))
    return recipe, Lacking(BEFORE.keys() - values.keys())


def stated(recipe: PrepareConfig, lacking: Lacking = frozenset()) -> dict[str, Any]:
    """Return the settings as they are stored: without those that are lacking, or ``UNSAID``."""
    unsaid = {name for name, value in UNSAID.items() if getattr(recipe, name) == value}
    return recipe.model_dump(mode="json", exclude=unsaid | lacking)


def recipe_digest(recipe: PrepareConfig, lacking: Lacking = frozenset()) -> str:
    """Return a recipe's digest: 16 hex digits, stamped into every shard made with it."""
    return digest_of({"schema_version": SCHEMA_VERSION, "prepare": stated(recipe, lacking)})


Count = Annotated[int, Field(ge=0, lt=2**63)]
RECIPE_FILE = "recipe.json"
MANIFEST_FILE = "manifest.arrow"


@dataclass(frozen=True)
class ShardFile:
    """A finished shard: its name below the shard folder, its rows, size in bytes and SHA-256."""

    __pydantic_config__ = STRICT

    file: str
    unit: Count
    rows: Count
    bytes: Count
    sha256: str


def listed_shards(entries: Any) -> list[ShardFile]:
    """Return the shards that a record lists. Raises ValueError for anything else, and for a name that is a path."""
    shards = checked(list[ShardFile], entries)
    if any(Path(shard.file).name != shard.file for shard in shards):
        raise ValueError("a shard's name is a path")
    return shards


def unit_name(unit: int) -> str:
    """Return the common prefix of the names of a unit's files."""
    return f"unit-{unit:06d}"


def shard_name(unit: int, number: int, generation: int = 0) -> str:
    """Name a unit's shard; the same in every run. ``generation``: how often rows of the unit were done again.

    A new generation exists next to the old one until the ledger part that names it is written.
    """
    again = f"-r{generation:02d}" if generation else ""
    return f"{unit_name(unit)}{again}-{number:02d}.arrow"


def dataset_digest(recipe: str, shards: Sequence[ShardFile]) -> str:
    """Return a dataset's digest: 16 hex digits over its recipe's digest and the SHA-256 of its shards, in order."""
    return digest_of({"recipe": recipe, "shards": [shard.sha256 for shard in shards]})


class Units:
    """The folder's copy of the manifest, a record batch per work unit, read one at a time."""

    def __init__(self, place: Folder) -> None:
        self._place = place
        self._open()

    def _open(self) -> None:
        self._file = pa.ipc.open_file(self._place.source(MANIFEST_FILE, mapped=False))

    def __len__(self) -> int:
        return int(self._file.num_record_batches)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the manifest."""
        return self._file.schema

    def batch(self, unit: int, *, again: bool = False) -> pa.RecordBatch:
        """Read the manifest rows of one unit; ``again``: True on the second try."""
        try:
            return self._file.get_batch(unit)
        except (OSError, pa.ArrowException) as error:
            self._place.sha256(MANIFEST_FILE)  # raises the storage's own error, if it still fails
            if again:
                raise InputError(f"{self._place.named(MANIFEST_FILE)} is damaged: {error}.") from None
            self._open()
            return self.batch(unit, again=True)

    def rows(self, unit: int) -> list[dict[str, Any]]:
        """Read the manifest rows of one unit as plain values."""
        return list(rows_of(self.batch(unit)))


@dataclass(frozen=True)
class Output:
    """An output folder on any storage, its recipe and the digest of its manifest.

    ``lacking``: settings that the stored recipe lacks because it is older.
    """

    place: Folder
    recipe: PrepareConfig
    digest: str
    manifest_sha256: str
    lacking: Lacking = frozenset()

    @property
    def folder(self) -> Path:
        """The folder's path. Raises InputError if it is not local."""
        return self.place.local

    @property
    def shards(self) -> Path:
        """Path of the folder of shards, which must be local."""
        return self.folder / SHARD_FOLDER

    def ledger(self, unit: int) -> Path:
        """Return the path of a unit's ledger part in a local folder."""
        return self.folder / self.ledger_name(unit)

    @staticmethod
    def ledger_name(unit: int) -> str:
        """Return the name of a unit's ledger part below the folder."""
        return f"{LEDGER_FOLDER}/{unit_name(unit)}.parquet"

    @cached_property
    def _units(self) -> Units:
        return Units(self.place)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_units"}  # leaves the open file behind

    def units(self) -> int:
        """Count the work units."""
        return len(self._units)

    def batch(self, unit: int) -> pa.RecordBatch:
        """Read the manifest rows of one unit."""
        return self._units.batch(unit)

    def rows(self, unit: int) -> list[dict[str, Any]]:
        """Read the manifest rows of one unit as plain values."""
        return self._units.rows(unit)

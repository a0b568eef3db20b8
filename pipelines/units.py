"""The folder that prepare writes: fixed work units of the manifest, and which of them are finished.

A unit's ledger part is written last, so it is the unit's commit: its metadata lists the shards that belong to it.
The folder also keeps the manifest it was made from (``manifest.arrow``, one record batch per unit) and the recipe
(``recipe.json``), both written first, so an interrupted folder knows what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gare.common.errors import InputError
from gare.common.files import atomic_file, canonical_json, digest_of, write_json
from gare.config import PrepareConfig
from gare.schema import LEDGER, LEDGER_FOLDER, MANIFEST, RECIPE_KEY, SCHEMA_VERSION, SHARD_FOLDER, VERSION_KEY, stamped
from pipelines.manifest import content_digest, rows_of

RECIPE_FILE = "recipe.json"
MANIFEST_FILE = "manifest.arrow"
SHARDS_KEY = b"gare.shards"


@dataclass(frozen=True)
class ShardFile:
    """A finished shard: its name below the shard folder, its rows, size in bytes and SHA-256."""

    file: str
    unit: int
    rows: int
    bytes: int
    sha256: str


def recipe_digest(recipe: PrepareConfig) -> str:
    """Name a decode recipe: 16 hex digits, stamped into every shard made by it."""
    return digest_of({"schema_version": SCHEMA_VERSION, "prepare": recipe.model_dump(mode="json")})


def shard_name(unit: int, number: int) -> str:
    """Name a unit's shard; the same for every run."""
    return f"unit-{unit:06d}-{number:02d}.arrow"


@dataclass(frozen=True)
class Output:
    """An output folder, its recipe and the digest of its manifest."""

    folder: Path
    recipe: PrepareConfig
    digest: str
    manifest_sha256: str

    @property
    def shards(self) -> Path:
        """Folder of the shards."""
        return self.folder / SHARD_FOLDER

    def ledger(self, unit: int) -> Path:
        """Path of a unit's ledger part."""
        return self.folder / LEDGER_FOLDER / f"unit-{unit:06d}.parquet"

    def units(self) -> int:
        """Count the work units."""
        with pa.memory_map(str(self.folder / MANIFEST_FILE)) as source:
            return int(pa.ipc.open_file(source).num_record_batches)

    def rows(self, unit: int) -> list[dict[str, Any]]:
        """Read the manifest rows of one unit."""
        with pa.memory_map(str(self.folder / MANIFEST_FILE)) as source:
            return list(rows_of(pa.ipc.open_file(source).get_batch(unit)))


def open_output(folder: Path, manifest: pa.Table, recipe: PrepareConfig) -> Output:
    """Start an output folder, or take up one made from the same manifest with the same recipe.

    Raises InputError naming what differs: shards of two recipes never mix.
    """
    if ":/" in str(folder):
        raise InputError(f"The output folder {folder} is an address; only folders of a file system can be written.")
    output = Output(folder, recipe, recipe_digest(recipe), content_digest(manifest))
    wanted = {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": output.digest,
        "manifest_sha256": output.manifest_sha256,
    }
    there = _read_recipe(folder)
    if there is not None:
        _refuse_other(folder, there, wanted)
    elif any((folder / name).exists() for name in (SHARD_FOLDER, LEDGER_FOLDER)):
        raise InputError(f"{folder} holds shards but no {RECIPE_FILE}; give another --out.")
    if there is None or not (folder / MANIFEST_FILE).is_file():
        # Without the recipe, a manifest that is there may be another one's: its writer died before the recipe.
        _write_manifest(folder / MANIFEST_FILE, manifest, recipe.unit_videos)
    if there is None:
        write_json(folder / RECIPE_FILE, wanted)
    for name in (SHARD_FOLDER, LEDGER_FOLDER):
        (folder / name).mkdir(exist_ok=True)
    return output


def existing_output(folder: Path) -> Output:
    """The output folder of an earlier ``gare prepare``, finished or not.

    Raises InputError when it is none, or one of another version of this software.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the --out folder of gare prepare.")
    there = _read_recipe(folder)
    if there is None or not (folder / MANIFEST_FILE).is_file():
        raise InputError(f"{folder} has no {RECIPE_FILE} or no {MANIFEST_FILE}; it is no folder of gare prepare.")
    if there["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{folder} has schema version {there['schema_version']}; this software reads {SCHEMA_VERSION}."
        )
    try:
        recipe = PrepareConfig.model_validate_json(json.dumps(there["recipe"]))
        output = Output(folder, recipe, there["recipe_digest"], there["manifest_sha256"])
    except (KeyError, ValueError):
        raise InputError(f"{folder} was prepared by another version of this software, or is damaged.") from None
    _check_manifest(folder / MANIFEST_FILE)
    return output


def _check_manifest(path: Path) -> None:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)  # unchecked offsets of a damaged file would take the process down
            if table.schema.equals(MANIFEST):
                return
    except (OSError, ValueError, pa.ArrowException):
        pass
    raise InputError(f"{path} is damaged; prepare again into another folder.")


def write_ledger(output: Output, unit: int, rows: list[dict[str, Any]], shards: list[ShardFile]) -> None:
    """Commit a unit: its ledger part, naming its shards."""
    schema = stamped(LEDGER, recipe_digest=output.digest, unit=unit)
    listed = canonical_json([asdict(shard) for shard in shards]).encode()
    schema = schema.with_metadata({**schema.metadata, SHARDS_KEY: listed})
    with atomic_file(output.ledger(unit)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, write_page_checksum=True)


def read_ledger(output: Output, unit: int) -> tuple[list[dict[str, Any]], list[ShardFile]] | None:
    """Read a unit's ledger rows and shards; None unless the unit is finished."""
    try:
        return finished_ledger(output, unit)
    except InputError:
        return None


def finished_ledger(output: Output, unit: int) -> tuple[list[dict[str, Any]], list[ShardFile]]:
    """Read a finished unit's ledger rows and shards; InputError that says why it is not finished.

    Finished: the part carries this recipe, covers exactly the unit's manifest rows, and its shards are there in
    their full size.
    """
    path = output.ledger(unit)
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        table.validate(full=True)
    except FileNotFoundError:
        raise InputError(f"Unit {unit} has no ledger part {path}.") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # a ValueError: names that are no UTF-8
        raise InputError(f"The ledger part {path} cannot be read: {str(error).splitlines()[0]}.") from None
    metadata = table.schema.metadata or {}
    if metadata.get(RECIPE_KEY) != output.digest.encode():
        raise InputError(f"The ledger part {path} was made by another recipe than {RECIPE_FILE} says.")
    if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION).encode() or not table.schema.equals(LEDGER):
        raise InputError(f"The ledger part {path} has another schema version or other columns.")
    shards = _listed_shards(path, metadata)
    for shard in shards:
        _check_size(output.shards / shard.file, shard)
    rows = table.to_pylist()
    names = ("video_id", "uri", "split")
    if [[row[n] for n in names] for row in rows] != [[row[n] for n in names] for row in output.rows(unit)]:
        raise InputError(f"The ledger part {path} does not hold the rows of the manifest, in their order.")
    return rows, shards


def _listed_shards(path: Path, metadata: Mapping[bytes, bytes]) -> list[ShardFile]:
    try:
        shards = [ShardFile(**entry) for entry in json.loads(metadata[SHARDS_KEY])]
        if all(isinstance(shard.file, str) and Path(shard.file).name == shard.file for shard in shards):
            return shards
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(f"The ledger part {path} does not list its shards.")


def _check_size(path: Path, shard: ShardFile) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise InputError(f"The shard {path} is missing.") from None
    if size != shard.bytes:
        raise InputError(f"The shard {path} has {size} bytes, not {shard.bytes} as recorded.")


def remove_leftovers(output: Output, unfinished: list[int]) -> None:
    """Remove what an interrupted run left of the unfinished units."""
    stems = {f"unit-{unit:06d}" for unit in unfinished}
    for name in (SHARD_FOLDER, LEDGER_FOLDER):
        for file in (output.folder / name).iterdir():
            if file.name.lstrip(".")[: len("unit-000000")] in stems:
                file.unlink(missing_ok=True)


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    path = folder / RECIPE_FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out is a folder.")
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    keys = {"recipe", "manifest_sha256", "schema_version"}
    if not isinstance(values, dict) or not keys <= values.keys() or not isinstance(values["recipe"], dict):
        raise InputError(f"{path} is damaged; remove {folder} or give another --out.")
    return values


def _refuse_other(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    again = "Give another --out, or remove the folder to make it anew."
    if there.get("schema_version") != wanted["schema_version"]:
        raise InputError(
            f"{folder} has schema version {there.get('schema_version')}; this software writes "
            f"{wanted['schema_version']}. {again}"
        )
    old, new = _flat(there["recipe"], "prepare."), _flat(wanted["recipe"], "prepare.")
    changed = [f"{k} was {old.get(k)}, now {new.get(k)}" for k in {**old, **new} if old.get(k) != new.get(k)]
    if changed:
        raise InputError(f"{folder} was made with another recipe: {'; '.join(changed)}. {again}")
    if there["manifest_sha256"] != wanted["manifest_sha256"]:
        raise InputError(f"{folder} was made from another manifest, with other rows or in another order. {again}")


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _write_manifest(path: Path, manifest: pa.Table, unit_videos: int) -> None:
    with atomic_file(path) as temporary, pa.ipc.new_file(str(temporary), manifest.schema) as writer:
        writer.write_table(manifest.combine_chunks(), max_chunksize=unit_videos)

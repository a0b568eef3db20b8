"""Start an output folder, continue an existing one, and reject one with other contents."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gare.common.errors import InputError
from gare.common.occupied import refuse_occupied
from gare.common.records import load_json
from gare.common.redact import names, shown
from gare.common.storage import Folder
from gare.config.prepare import BEFORE, UNSAID, PrepareConfig
from gare.config.tree import by_dotted_key
from gare.schema import LEDGER_FOLDER, SCHEMA_VERSION, SHARD_FOLDER
from pipelines.dataset.layout import MANIFEST_FILE, RECIPE_FILE, Output, read_recipe, recipe_digest, stated
from pipelines.dataset.manifest_file import Kept, grow_manifest, open_units, start_manifest


def open_output(place: str | Path | Folder, manifest: pa.Table | Iterable[pa.Table], recipe: PrepareConfig) -> Output:
    """Start an output folder, or continue one made with the same recipe from the same manifest or a shorter one.

    ``manifest``: its checked rows, in one table or several. New rows become units with the next numbers. Raises
    InputError naming the differences: shards of two recipes never mix.
    """
    return take_up(place, manifest, recipe)[0]


def take_up(
    place: str | Path | Folder, manifest: pa.Table | Iterable[pa.Table], recipe: PrepareConfig
) -> tuple[Output, Kept]:
    """Open an output folder as ``open_output`` does; return it with the state of its manifest."""
    place = place if isinstance(place, Folder) else Folder.at(place)
    tables = [manifest] if isinstance(manifest, pa.Table) else manifest
    wanted = {
        "schema_version": SCHEMA_VERSION,
        "recipe": stated(recipe),
        "recipe_digest": recipe_digest(recipe),
    }
    there = _read_recipe(place)
    if place.is_local:
        refuse_occupied(place.local, "prepared shards")
    if there is not None:
        _refuse_other(place, there, wanted)
    elif any(place.exists(name) for name in (SHARD_FOLDER, LEDGER_FOLDER)):
        raise InputError(f"{place} holds shards but no {RECIPE_FILE}; give another --out.")
    # Without the recipe, an existing manifest may be a different one whose writer died before the recipe.
    known = there is not None and place.exists(MANIFEST_FILE)
    kept = (grow_manifest if known else start_manifest)(place, tables, recipe.unit_videos)
    if there is not None and not known and (kept.sha256 != there["manifest_sha256"] or not _fits_ledger(place)):
        place.remove(MANIFEST_FILE)
        raise InputError(
            f"{place.named(MANIFEST_FILE)} is gone, and this is not the manifest it was made of, or it had grown in "
            "parts that only that file tells; put it back, or give another --out."
        )
    wanted |= {"manifest_sha256": kept.sha256}
    if there != wanted:
        place.write_json(RECIPE_FILE, wanted)
    for name in (SHARD_FOLDER, LEDGER_FOLDER):
        place.make(name)
    return Output(place, recipe, recipe_digest(recipe), kept.sha256), kept


def _fits_ledger(place: Folder) -> bool:
    """Return True if a manifest cut again gives the units of the ledger; a folder that has grown has different ones."""
    units = open_units(place)
    for name in place.names(LEDGER_FOLDER):
        try:
            rows = pq.read_metadata(io.BytesIO(place.read_bytes(f"{LEDGER_FOLDER}/{name}"))).num_rows
            unit = int(name.removeprefix("unit-").removesuffix(".parquet"))
        except (pa.ArrowException, ValueError):  # damaged, or not a ledger part
            continue
        if unit >= len(units) or units.batch(unit).num_rows != rows:
            return False
    return True


def existing_output(place: str | Path | Folder) -> Output:
    """Open the output folder of an earlier ``gare prepare``, finished or not.

    Raises InputError if it is not one, or was written by another version of this software.
    """
    place = place if isinstance(place, Folder) else Folder.at(place)
    if place.is_local and not place.local.is_dir():
        raise InputError(f"There is no folder {place}; give the --out folder of gare prepare.")
    there = _read_recipe(place)
    if there is None or not place.exists(MANIFEST_FILE):
        raise InputError(f"{place} has no {RECIPE_FILE} or no {MANIFEST_FILE}; it is no folder of gare prepare.")
    if there["schema_version"] != SCHEMA_VERSION:
        version = shown(there["schema_version"])
        raise InputError(f"{place} has schema version {version}; this software reads {SCHEMA_VERSION}.")
    try:
        recipe, lacking = read_recipe(there["recipe"])
        output = Output(place, recipe, there["recipe_digest"], there["manifest_sha256"], lacking)
    except (KeyError, ValueError):
        raise InputError(f"{place} was prepared by another version of this software, or is damaged.") from None
    open_units(place)
    return output


def _read_recipe(place: Folder) -> dict[str, Any] | None:
    if place.is_local and place.local.exists() and not place.local.is_dir():
        raise InputError(f"{place} is a file; --out is a folder.")
    text = place.read_text(RECIPE_FILE)
    if text is None:
        return None
    try:
        values = load_json(text)
    except ValueError:
        values = None
    kinds = {"recipe": dict, "recipe_digest": str, "manifest_sha256": str, "schema_version": int}
    if not isinstance(values, dict) or not all(isinstance(values.get(key), kind) for key, kind in kinds.items()):
        raise InputError(
            f"{place.named(RECIPE_FILE)} is damaged. Nothing was changed; put the file back, or give another --out."
        )
    return values


def _refuse_other(place: Folder, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    again = "Give another --out, or remove the folder to start over."
    if there.get("schema_version") != wanted["schema_version"]:
        raise InputError(
            f"{place} has schema version {shown(there.get('schema_version'))}; this software writes "
            f"{wanted['schema_version']}. {again}"
        )
    if BEFORE.keys() - there["recipe"].keys():
        raise InputError(
            f"{place} was prepared by an older version of this software, which made other pictures of some videos. "
            "A finished folder trains as it is, but nothing can be added to it: give another --out."
        )
    old, new = (by_dotted_key({**UNSAID, **one["recipe"]}, "prepare.") for one in (there, wanted))
    changed = [
        f"{names([k])} was {shown(old.get(k))}, now {shown(new.get(k))}"
        for k in {**old, **new}
        if old.get(k) != new.get(k)
    ]
    if changed:
        raise InputError(f"{place} was made with another recipe: {'; '.join(changed)}. {again}")

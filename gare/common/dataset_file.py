"""``dataset.json``: read only where it holds what is read of it, in the right types."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from gare.common.errors import InputError
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, SCHEMA_VERSION


def read_dataset_file(place: Folder) -> dict[str, Any]:
    """Read the dataset manifest of a folder. Raises InputError where there is none, or one of something else."""
    path = place.named(DATASET_FILE)
    if place.is_local and not place.local.is_dir():
        raise InputError(f"There is no folder {place}; give the --out folder of gare prepare.")
    text = place.read_text(DATASET_FILE) if place.size(DATASET_FILE) is not None else None
    if text is None:
        raise InputError(f"{place} has no {DATASET_FILE}: gare prepare did not finish there. Run it again.")
    try:
        values: dict[str, Any] = json.loads(text, parse_constant=_refuse_constant)
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is damaged; run gare prepare again.") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {version}; this software reads {SCHEMA_VERSION}.")
    if not _is_dataset(values):
        raise InputError(f"{path} is damaged; run gare prepare again.")
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and infinities, which are no JSON


def _is_dataset(values: dict[str, Any]) -> bool:
    kinds = {"digest": str, "recipe_digest": str, "recipe": dict, "splits": dict, "shards": list}
    if not all(isinstance(values.get(name), kind) for name, kind in kinds.items()):
        return False
    recipe = values["recipe"]
    sizes = [recipe.get(name) for name in ("max_frames", "short_side", "crop")]
    if not all(isinstance(size, int) and size > 0 for size in sizes if size is not None) or None in sizes[:2]:
        return False
    totals = values.get("totals", {})
    notes = totals.get("notes", {}) if isinstance(totals, dict) else None
    if not isinstance(notes, dict) or not all(isinstance(count, int) for count in notes.values()):
        return False
    return all(isinstance(e, dict) and _is_name(e.get("file")) and "rows" in e for e in values["shards"])


def _is_name(name: Any) -> bool:
    """Whether this names a file of the shard folder, and not one elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and PurePosixPath(name).name == name

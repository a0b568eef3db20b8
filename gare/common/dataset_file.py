"""Read a prepared dataset: dataset.json, and shards that are complete and match it."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from gare.common.errors import InputError, StorageError
from gare.common.records import LENIENT, checked, load_json
from gare.common.redact import shown
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, RECIPE_KEY, SCHEMA_VERSION, SHARD, VERSION_KEY


def _file_name(name: str) -> str:
    """Check that a name is that of a file directly in the shard folder."""
    if name in ("", ".", "..") or PurePosixPath(name).name != name:
        raise ValueError("it is not a file name")
    return name


Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**31)]


class _Lenient(BaseModel):
    model_config = LENIENT


class _Shard(_Lenient):
    file: Annotated[str, AfterValidator(_file_name)]
    rows: Count
    unit: Count = 0
    bytes: Count = 0
    sha256: str = ""


class _Recipe(_Lenient):
    max_frames: Size
    short_side: Size
    crop: Size | None = None


class _Counted(_Lenient):
    videos: Count
    captions: Count


class _Totals(_Lenient):
    notes: dict[str, Count] = {}


class _DatasetFile(_Lenient):
    digest: str
    recipe_digest: str
    recipe: _Recipe
    splits: dict[str, _Counted]
    shards: list[_Shard]
    totals: _Totals = _Totals()


def read_dataset_file(place: Folder) -> dict[str, Any]:
    """Read the dataset manifest of a folder; InputError if it is missing or not one."""
    path = place.named(DATASET_FILE)
    if place.is_local and not place.local.is_dir():
        raise InputError(f"There is no folder {place}; give the --out folder of gare prepare.")
    text = place.read_text(DATASET_FILE) if place.size(DATASET_FILE) is not None else None
    if text is None:
        raise InputError(f"{place} has no {DATASET_FILE}: gare prepare did not finish there. Run it again.")
    try:
        values = load_json(text)
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; run gare prepare again.") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {shown(version)}; this software reads {SCHEMA_VERSION}.")
    try:
        checked(_DatasetFile, values)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); run gare prepare again.") from None
    return dict(values)


Picture = NDArray[np.uint8]


def read_shard(
    path: Path | pa.NativeFile,
    *,
    recipe_digest: str,
    rows: int,
    name: str = "",
    columns: Sequence[str] = tuple(SHARD.names),
) -> pa.Table:
    """Open a shard as a table of the schema SHARD; a path is memory-mapped and read only as it is used.

    ``name``: the name in messages for a file that is already open; ``columns``: those to read, in SHARD's order; others
    are not touched. Raises InputError if it is damaged, not a shard, or does not match ``recipe_digest`` and ``rows``.
    Its SHA-256 is not computed.
    """
    where, schema = name or path, pa.schema([SHARD.field(column) for column in columns])
    options = pa.ipc.IpcReadOptions(included_fields=[SHARD.get_field_index(column) for column in columns])
    try:
        source = pa.memory_map(str(path)) if isinstance(path, Path) else path
        table = pa.ipc.open_file(source, options=options).read_all()
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise StorageError(f"Cannot read the shard {where}: {os.strerror(error.errno or 0)}.") from None
        raise InputError(f"Cannot read the shard {where}: {error}. Run gare prepare again.") from None
    metadata = table.schema.metadata or {}
    if not table.schema.equals(schema, check_metadata=False):
        raise InputError(f"The shard {where} does not have the columns of a shard; it was not made by gare prepare.")
    try:
        table.validate(full=True)  # unchecked offsets of a damaged file would crash the process
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"The shard {where} is damaged: {error}. Run gare prepare again.") from None
    missing = [field.name for field, column in zip(schema, table.columns, strict=True) if _has_nulls(field, column)]
    if missing:
        raise InputError(f"The shard {where} is damaged: values of {', '.join(missing)} are missing.")
    if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION).encode():
        raise InputError(f"The shard {where} has another schema version; run gare prepare again.")
    if metadata.get(RECIPE_KEY) != recipe_digest.encode():
        raise InputError(f"The shard {where} was decoded by another recipe than its folder says.")
    if table.num_rows != rows:
        raise InputError(f"The shard {where} holds {table.num_rows} rows, not {rows} as recorded.")
    return table


def _has_nulls(field: pa.Field, column: pa.ChunkedArray) -> bool:
    """Return whether required values are missing: in a column without nulls, or inside its lists."""
    inside = pa.types.is_list(field.type) and any(chunk.values.null_count for chunk in column.chunks)
    return bool(not field.nullable and column.null_count) or inside


def stored_picture(data: Any, codec: str, height: int, width: int) -> Picture:
    """Return RGB uint8 [height, width, 3] of one stored frame (bytes or a buffer); OSError or ValueError if damaged."""
    if codec == "jpeg":
        from PIL import Image

        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if (image.height, image.width) != (height, width):
                raise ValueError(f"a picture of {image.width} x {image.height} instead of {width} x {height}")
            return np.asarray(image.convert("RGB"))
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)

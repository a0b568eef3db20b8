"""One shard: opened only when it is whole and what it is said to be, and its frames as pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.schema import RECIPE_KEY, SCHEMA_VERSION, SHARD, VERSION_KEY

Picture = NDArray[np.uint8]


def read_shard(path: Path, *, recipe_digest: str, rows: int) -> pa.Table:
    """Memory-map a shard as a table of the schema SHARD; nothing of it is read before it is used.

    Raises InputError when it is damaged, no shard, or not the one of ``recipe_digest`` and ``rows``. Its SHA-256 is
    not computed.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"Cannot read the shard {path}: {error}. Run gare prepare again.") from None
    metadata = table.schema.metadata or {}
    if not table.schema.equals(SHARD, check_metadata=False):
        raise InputError(f"The shard {path} does not have the columns of a shard; it was not made by gare prepare.")
    try:
        table.validate(full=True)  # unchecked offsets of a damaged file would take the process down
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"The shard {path} is damaged: {error}. Run gare prepare again.") from None
    if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION).encode():
        raise InputError(f"The shard {path} has another schema version; run gare prepare again.")
    if metadata.get(RECIPE_KEY) != recipe_digest.encode():
        raise InputError(f"The shard {path} was decoded by another recipe than its folder says.")
    if table.num_rows != rows:
        raise InputError(f"The shard {path} holds {table.num_rows} rows, not {rows} as recorded.")
    return table


def stored_picture(data: Any, codec: str, height: int, width: int) -> Picture:
    """RGB uint8 [height, width, 3] of one stored frame (bytes or a buffer); OSError or ValueError when damaged."""
    if codec == "jpeg":
        from PIL import Image

        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if (image.height, image.width) != (height, width):
                raise ValueError(f"a picture of {image.width} x {image.height} in place of {width} x {height}")
            return np.asarray(image.convert("RGB"))
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)

"""The contract between the data job and training: what a manifest, a shard and a ledger look like.

Every file carries ``SCHEMA_VERSION``; a reader refuses a version it does not know. No column is an object
column: nothing here is ever unpickled.
"""

from __future__ import annotations

from typing import Final, Literal

import pyarrow as pa

SCHEMA_VERSION: Final = 1
VERSION_KEY: Final = b"gare.schema_version"
RECIPE_KEY: Final = b"gare.recipe_digest"
UNIT_KEY: Final = b"gare.work_unit"

Status = Literal["ok", "filtered", "failed"]

ATTRIBUTES: Final = pa.map_(pa.string(), pa.string())

MANIFEST: Final = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("attributes", ATTRIBUTES),
    ]
)
"""One row per video. ``start_s`` and ``end_s`` bound the clip, in seconds from the first shown frame."""

TAKEN_FROM: Final = "taken_from"
"""Attribute of a dev row that the train split would hold if there were no dev split: its value is ``train``. Rows
without it never were training data."""

SHARD: Final = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("attributes", ATTRIBUTES),
        pa.field("frames", pa.list_(pa.binary()), nullable=False),
        pa.field("frame_codec", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("timestamps_s", pa.list_(pa.float64()), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source_codec", pa.string(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("source_fps", pa.float64()),
        pa.field("source_duration_s", pa.float64()),
        pa.field("source_bytes", pa.int64(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
    ]
)
"""One row per decoded video. ``frames``: one binary per valid frame, raw RGB (height x width x 3, uint8) or
JPEG; never padded. ``timestamps_s``: when each frame is shown, from the first shown frame."""

LEDGER: Final = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("notes", pa.list_(pa.string()), nullable=False),
        pa.field("message", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("decode_s", pa.float64(), nullable=False),
        pa.field("source_bytes", pa.int64()),
        pa.field("source_mtime_ns", pa.int64()),
        pa.field("source_sha256", pa.string()),
    ]
)
"""One row per manifest row, always. ``status``: ok, filtered or failed; ``reason``: the filter's or the
failure's kind; ``shard``: the file name that holds the row when ok; ``source_*``: what the source was when it was
decoded, so that a change is noticed (when ok; the time is null where the storage tells none)."""

DATASET_FILE: Final = "dataset.json"
SHARD_FOLDER: Final = "shards"
LEDGER_FOLDER: Final = "ledger"


def stamped(schema: pa.Schema, *, recipe_digest: str, unit: int) -> pa.Schema:
    """``schema`` with the version, the decode recipe's digest and the work unit in its metadata."""
    return schema.with_metadata(
        {
            VERSION_KEY: str(SCHEMA_VERSION).encode(),
            RECIPE_KEY: recipe_digest.encode(),
            UNIT_KEY: str(unit).encode(),
        }
    )

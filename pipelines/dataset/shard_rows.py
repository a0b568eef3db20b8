"""Make, write and check rows of shards."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from gare.common.files import file_digest
from gare.config import PrepareConfig
from gare.schema import SHARD, SHARD_FOLDER, stamped
from pipelines.dataset.layout import Output, ShardFile, shard_name
from pipelines.dataset.ledger import write_ledger
from pipelines.decode import DecodedVideo
from pipelines.decode.errors import ROW_BYTES
from pipelines.decode.picture import can_be_shape

LIGHT = [name for name in SHARD.names if name != "frames"]


def light_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows without their frames; ``frames`` holds the size in bytes of each instead."""
    sizes = [pc.binary_length(frames.values).to_pylist() for frames in table["frames"]]
    for row, frames in zip(table.select(LIGHT).to_pylist(), sizes, strict=True):
        yield {**row, "frames": frames}


def stored_problems(name: str, row: dict[str, Any], recipe: PrepareConfig) -> Iterator[str]:
    """Yield a sentence, starting with ``name``, for all of a row of ``light_rows`` that the recipe cannot have made."""
    count, times = len(row["frames"]), row["timestamps_s"]
    if not 1 <= count <= recipe.max_frames:
        yield f"{name} has {count} frames; the recipe stores 1 to {recipe.max_frames}."
    if len(times) != count:
        yield f"{name} has {count} frames, but {len(times)} timestamps."
    if None in times or not all(map(math.isfinite, times)) or any(a > b for a, b in pairwise(times)):
        yield f"{name}: its timestamps do not rise."
    if not can_be_shape(recipe, row["height"], row["width"]):
        yield f"{name}: its frames are {row['width']} x {row['height']}, which the recipe does not make."
    if row["frame_codec"] != recipe.storage:
        yield f"{name}: its frames are {row['frame_codec']}; the recipe says {recipe.storage}."
    elif recipe.storage == "raw" and any(size != row["height"] * row["width"] * 3 for size in row["frames"]):
        yield f"{name}: a frame is not of {row['width']} x {row['height']} pixels."


BATCH_ROWS = 16
BATCH_BYTES = 32 * 2**20
Bytes = bytes | memoryview
Row = dict[str, Any]


def stored_frames(video: DecodedVideo, recipe: PrepareConfig) -> list[Bytes]:
    """Return one binary per frame: raw RGB (height x width x 3, uint8; a view of it) or JPEG, as the recipe says."""
    if recipe.storage == "raw":
        return [np.ascontiguousarray(frame).reshape(-1).data for frame in video.frames]
    encoded: list[Bytes] = []
    for frame in video.frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=recipe.jpeg_quality)
        encoded.append(buffer.getvalue())
    return encoded


def shard_row(
    row: dict[str, Any], video: DecodedVideo, recipe: PrepareConfig, *, size: int, sha256: str
) -> dict[str, Any]:
    """Build the SHARD row of a manifest row and its decoded video; ``size`` and ``sha256`` are the source file's."""
    height, width, _ = video.frames[0].shape
    return {
        **{name: row[name] for name in ("video_id", "uri", "split", "captions", "attributes")},
        "frames": stored_frames(video, recipe),
        "frame_codec": recipe.storage,
        "height": height,
        "width": width,
        "timestamps_s": video.timestamps_s,
        "source_codec": video.codec,
        "source_width": video.width,
        "source_height": video.height,
        "source_fps": video.fps,
        "source_duration_s": video.duration_s,
        "source_bytes": size,
        "source_sha256": sha256,
    }


class ShardWriter:
    """The shards of one unit. A shard is closed once its frames hold ``shard_bytes``; use as a context manager.

    An open shard is not visible; an exception leaves the closed ones, which no ledger part names yet.
    """

    def __init__(self, output: Output, unit: int, generation: int = 0) -> None:
        self._output, self._unit, self._generation = output, unit, generation
        self._schema = stamped(SHARD, recipe_digest=output.digest, unit=unit)
        self._open: ExitStack | None = None
        self._sink: Any = None
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = self._bytes = self._rows = 0
        self.finished: list[ShardFile] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._guarded(self._close)
        elif self._open is not None:
            self._open.__exit__(*exception)  # type: ignore[arg-type]

    def add(self, row: dict[str, Any]) -> str:
        """Write one SHARD row and return the name of its shard."""
        size = sum(len(frame) for frame in row["frames"])
        if self._pending_bytes + size > ROW_BYTES:
            self._flush()
        name = self._name()
        self._pending.append(row)
        self._pending_bytes += size
        self._bytes += size
        self._rows += 1
        if len(self._pending) >= BATCH_ROWS or self._pending_bytes >= BATCH_BYTES:
            self._flush()
        if self._bytes >= self._output.recipe.shard_bytes:
            self._close()
        return name

    def _guarded(self, act: Callable[[], None]) -> None:
        """Do something with the open shard; if it fails, let the file's writer clean up and report the error."""
        try:
            act()
        except BaseException as error:
            opened, self._open = self._open, None
            if opened is None or not opened.__exit__(type(error), error, error.__traceback__):
                raise

    def _name(self) -> str:
        return shard_name(self._unit, len(self.finished), self._generation)

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._open is None:
            self._open = ExitStack()
            name = f"{SHARD_FOLDER}/{self._name()}"
            self._temporary = self._open.enter_context(self._output.place.writing(name))
            self._sink = pa.ipc.new_file(str(self._temporary), self._schema)  # each close writes a footer
        self._sink.write_batch(_batch(self._pending, self._schema))
        self._pending, self._pending_bytes = [], 0

    def _close(self) -> None:
        self._flush()
        if self._open is None:
            return
        self._sink.close()
        size, sha256 = self._temporary.stat().st_size, file_digest(self._temporary)
        self._open.close()
        self._open = None
        self.finished.append(ShardFile(self._name(), self._unit, self._rows, size, sha256))
        self._bytes = self._rows = 0


def write_unit(output: Output, unit: int, made: Iterable[tuple[Row, Row | None]], generation: int) -> list[Row]:
    """Write a unit's shards, then its ledger part; return the ledger rows."""
    ledger = []
    with ShardWriter(output, unit, generation) as writer:
        for entry, stored in made:
            ledger.append(entry | {"shard": None if stored is None else writer.add(stored)})
    write_ledger(output, unit, ledger, writer.finished, generation)
    return ledger


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Make a record batch of the rows, copying the frames once, where pyarrow would make several copies."""
    frames = [frame for row in rows for frame in row["frames"]]
    ends = np.cumsum([0, *map(len, frames)], dtype=np.int32)
    values = pa.Array.from_buffers(pa.binary(), len(frames), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(frames))])
    counts = np.cumsum([0, *(len(row["frames"]) for row in rows)], dtype=np.int32)
    rest = pa.schema([field for field in schema if field.name != "frames"])
    columns = pa.RecordBatch.from_pylist([{name: row[name] for name in rest.names} for row in rows], schema=rest)
    arrays = {name: columns.column(name) for name in rest.names}
    arrays["frames"] = pa.ListArray.from_arrays(pa.array(counts), values)
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)

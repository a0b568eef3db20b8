"""Writing one unit's shards: bounded record batches, closed at a size, whole or not at all."""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
from PIL import Image

from gare.common.files import file_digest
from gare.config import PrepareConfig
from gare.schema import SHARD, SHARD_FOLDER, stamped
from pipelines.decode import DecodedVideo
from pipelines.output import Output, ShardFile, shard_name

BATCH_ROWS = 16
BATCH_BYTES = 32 * 2**20


def stored_frames(video: DecodedVideo, recipe: PrepareConfig) -> list[bytes]:
    """One binary per frame: raw RGB (height x width x 3, uint8) or JPEG, as the recipe says."""
    if recipe.storage == "raw":
        return [frame.tobytes() for frame in video.frames]
    encoded = []
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

    Nothing of an open shard is visible; an exception leaves the closed ones, which no ledger part names yet.
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
            self._close()
        elif self._open is not None:
            self._open.__exit__(*exception)  # type: ignore[arg-type]

    def add(self, row: dict[str, Any]) -> str:
        """Write one SHARD row; the name of the shard that holds it."""
        name = self._name()
        size = sum(len(frame) for frame in row["frames"])
        self._pending.append(row)
        self._pending_bytes += size
        self._bytes += size
        self._rows += 1
        if len(self._pending) >= BATCH_ROWS or self._pending_bytes >= BATCH_BYTES:
            self._flush()
        if self._bytes >= self._output.recipe.shard_bytes:
            self._close()
        return name

    def _name(self) -> str:
        return shard_name(self._unit, len(self.finished), self._generation)

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._open is None:
            self._open = ExitStack()
            name = f"{SHARD_FOLDER}/{self._name()}"
            self._temporary = self._open.enter_context(self._output.place.writing(name))
            self._sink = pa.ipc.new_file(str(self._temporary), self._schema)  # closing it twice writes its end twice
        self._sink.write_batch(pa.RecordBatch.from_pylist(self._pending, schema=self._schema))
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

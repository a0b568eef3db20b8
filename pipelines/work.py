"""One work unit from its manifest rows to its shards and ledger part: what runs inside a task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gare.common.files import file_digest
from pipelines.decode import DecodeError, decode_video
from pipelines.units import Output, write_ledger
from pipelines.writer import ShardWriter, shard_row


@dataclass(frozen=True)
class UnitCounts:
    """What a finished unit adds to the progress."""

    unit: int
    videos: int
    failed: int


def process_unit(output: Output, unit: int) -> UnitCounts:
    """Decode a unit's videos, write its shards, then its ledger part. Doing it twice gives the same files."""
    ledger = []
    with ShardWriter(output, unit) as writer:
        for row in output.rows(unit):
            entry, stored = attempt(row, output)
            if stored is not None:
                entry["shard"] = writer.add(stored)
            ledger.append(entry)
    write_ledger(output, unit, ledger, writer.finished)
    return UnitCounts(unit, len(ledger), sum(entry["status"] == "failed" for entry in ledger))


def attempt(row: dict[str, Any], output: Output) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Decode one video: its LEDGER row, and its SHARD row when ok. Nothing about one video raises."""
    started = time.monotonic()
    entry: dict[str, Any] = {name: row[name] for name in ("video_id", "uri", "split")}
    entry |= {"status": "ok", "notes": [], "frames": 0, "attempts": 1}
    stored = None
    try:
        path = local_path(row["uri"])
        video = decode_video(path, recipe=output.recipe, start_s=row["start_s"], end_s=row["end_s"])
        stored = shard_row(row, video, output.recipe, size=path.stat().st_size, sha256=file_digest(path))
        entry |= {"notes": video.notes, "frames": len(video.frames)}
    except DecodeError as error:
        entry |= {"status": "failed", "reason": error.kind, "message": error.message}
    except Exception as error:  # noqa: BLE001 - one video never stops the job
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        entry |= {"status": "failed", "reason": "internal", "message": message}
    entry["decode_s"] = time.monotonic() - started
    return entry, stored


def local_path(uri: str) -> Path:
    """Find the local file of a path or a file:// uri; DecodeError(unsupported_uri) for anything remote."""
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        raise DecodeError("unsupported_uri", f"Only local files are read, not {parts.scheme}:// addresses.")
    return Path(unquote(parts.path))

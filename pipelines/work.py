"""One work unit from its manifest rows to its shards and ledger part: what runs inside a task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from gare.common.errors import RunError
from pipelines.decode import DecodeError
from pipelines.decode.isolated.decoder import Decoder, shared_decoder
from pipelines.units import Output, write_ledger
from pipelines.writer import ShardWriter, shard_row


@dataclass(frozen=True)
class UnitCounts:
    """What a finished unit adds to the progress."""

    unit: int
    videos: int
    failed: int


def process_unit(output: Output, unit: int, decoder: Decoder | None = None) -> UnitCounts:
    """Decode a unit's videos, write its shards, then its ledger part. Doing it twice gives the same files.

    ``decoder``: this process's own when None.
    """
    decoder = decoder or shared_decoder()
    ledger = []
    with ShardWriter(output, unit) as writer:
        for row in output.rows(unit):
            entry, stored = attempt(row, output, decoder)
            if stored is not None:
                entry["shard"] = writer.add(stored)
            ledger.append(entry)
    write_ledger(output, unit, ledger, writer.finished)
    return UnitCounts(unit, len(ledger), sum(entry["status"] == "failed" for entry in ledger))


def attempt(row: dict[str, Any], output: Output, decoder: Decoder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Decode one video: its LEDGER row, and its SHARD row when ok. Nothing about one video raises."""
    started = time.monotonic()
    entry: dict[str, Any] = {name: row[name] for name in ("video_id", "uri", "split")}
    entry |= {"status": "ok", "notes": [], "frames": 0, "attempts": 1}
    stored = None
    try:
        decoded = decoder.decode(row["uri"], recipe=output.recipe, start_s=row["start_s"], end_s=row["end_s"])
        video = decoded.video
        stored = shard_row(row, video, output.recipe, size=decoded.bytes, sha256=decoded.sha256)
        entry |= {"notes": video.notes, "frames": len(video.frames), "attempts": decoded.attempts}
    except DecodeError as error:
        entry |= {"status": "failed", "reason": error.kind, "message": error.message, "attempts": error.attempts}
    except RunError:  # no process to decode with, which is no video's fault
        raise
    except Exception as error:  # noqa: BLE001 - one video never stops the job
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        entry |= {"status": "failed", "reason": "internal", "message": message}
    entry["decode_s"] = time.monotonic() - started
    return entry, stored

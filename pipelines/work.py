"""One work unit from its manifest rows to its shards and ledger part: what runs inside a task."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from gare.common.errors import InputError, RunError
from gare.common.shard_file import read_shard
from gare.schema import SHARD_FOLDER
from pipelines.decode import DecodeError
from pipelines.decode.isolated.decoder import Decoder, shared_decoder
from pipelines.output import Ledger, Output, Part, write_ledger
from pipelines.writer import ShardWriter, shard_row

Row = dict[str, Any]
Attempt = tuple[Row, Row | None]
"""The LEDGER row of one video, and its SHARD row when ok."""


@dataclass(frozen=True)
class UnitCounts:
    """What a finished unit adds to the progress: the videos that were decoded, and those of them that failed."""

    unit: int
    videos: int
    failed: int


def process_unit(
    output: Output, unit: int, decoder: Decoder | None = None, again: Collection[int] | None = None
) -> UnitCounts:
    """Decode a unit's videos, write its shards, then its ledger part. Doing it twice gives the same files.

    ``decoder``: this process's own when None. ``again``: the rows (by position) of a finished unit that are decoded
    once more; the others are taken from its shards.
    """
    decoder = decoder or shared_decoder()
    if again is None:
        made = (attempt(row, output, decoder) for row in output.rows(unit))
        entries = _write(output, unit, made, generation=0)
    else:
        entries = _redo(output, unit, decoder, again)
    return UnitCounts(unit, len(entries), sum(entry["status"] == "failed" for entry in entries))


def _write(output: Output, unit: int, attempts: Iterator[Attempt], generation: int) -> list[Row]:
    ledger = []
    with ShardWriter(output, unit, generation) as writer:
        for entry, stored in attempts:
            ledger.append(entry | {"shard": None if stored is None else writer.add(stored)})
    write_ledger(output, unit, ledger, writer.finished, generation)
    return ledger


def _redo(output: Output, unit: int, decoder: Decoder, again: Collection[int]) -> list[Row]:
    """Decode some rows of a finished unit once more; the LEDGER rows of those. Its files change at one moment."""
    part = Ledger(output).part(unit)
    before, rows = part.table.to_pylist(), output.rows(unit)
    made = {position: attempt(rows[position], output, decoder) for position in again}
    for position, (entry, _) in made.items():
        entry["attempts"] += before[position]["attempts"]
    if all(stored is None and before[position]["status"] != "ok" for position, (_, stored) in made.items()):
        ledger = [made[position][0] if position in made else entry for position, entry in enumerate(before)]
        write_ledger(output, unit, ledger, part.shards, part.generation)
    else:
        _write(output, unit, _merged(before, made, _stored(output, part)), part.generation + 1)
    return [entry for entry, _ in made.values()]


def _merged(before: list[Row], made: dict[int, Attempt], kept: Iterator[Row]) -> Iterator[Attempt]:
    """Put the new attempts in the place of the old ones."""
    for position, entry in enumerate(before):
        stored = next(kept) if entry["status"] == "ok" else None
        yield made.get(position, (entry, stored))


def _stored(output: Output, part: Part) -> Iterator[Row]:
    """Yield the rows of a unit's shards in order. Raises InputError for one that is not as it was written."""
    for shard in part.shards:
        if output.place.sha256(f"{SHARD_FOLDER}/{shard.file}") != shard.sha256:
            raise InputError(f"The shard {shard.file} has another SHA-256 than its ledger part says; remove it.")
        with output.place.source(f"{SHARD_FOLDER}/{shard.file}") as source:
            table = read_shard(source, recipe_digest=output.digest, rows=shard.rows, name=shard.file)
            for position in range(table.num_rows):
                yield table.slice(position, 1).to_pylist()[0]


def attempt(row: Row, output: Output, decoder: Decoder) -> Attempt:
    """Decode one video: its LEDGER row, and its SHARD row when ok. Nothing about one video raises."""
    started = time.monotonic()
    entry: Row = {name: row[name] for name in ("video_id", "uri", "split")}
    entry |= {"status": "ok", "notes": [], "frames": 0, "attempts": 1}
    stored = None
    try:
        decoded = decoder.decode(row["uri"], recipe=output.recipe, start_s=row["start_s"], end_s=row["end_s"])
        video = decoded.video
        stored = shard_row(row, video, output.recipe, size=decoded.bytes, sha256=decoded.sha256)
        entry |= {"notes": video.notes, "frames": len(video.frames), "attempts": decoded.attempts}
        entry |= {"source_bytes": decoded.bytes, "source_sha256": decoded.sha256, "source_mtime_ns": decoded.mtime_ns}
    except DecodeError as error:
        entry |= {"status": "failed", "reason": error.kind, "message": error.message, "attempts": error.attempts}
    except RunError:  # no process to decode with, which is no video's fault
        raise
    except Exception as error:  # noqa: BLE001 - one video never stops the job
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        entry |= {"status": "failed", "reason": "internal", "message": message}
    entry["decode_s"] = time.monotonic() - started
    return entry, stored

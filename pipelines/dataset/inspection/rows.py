"""Whether a unit's ledger part, its shards and its manifest rows tell the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from gare.schema import Status
from pipelines.dataset.inspection.contents import Contents, Unit
from pipelines.dataset.row_checks import light_rows, stored_problems

AS_IN_MANIFEST = ("uri", "split", "captions", "attributes")


def ledger_problems(ledger: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say which ledger rows make no sense by themselves."""
    for row in ledger:
        if row["status"] not in get_args(Status):
            yield f"{row['video_id']!r} has the status {row['status']!r} in the ledger, which there is not."
        elif row["status"] == "ok" and row["shard"] is None:
            yield f"{row['video_id']!r} is ok in the ledger, which names no shard for it."
        elif row["status"] != "ok" and row["reason"] is None:
            yield f"{row['video_id']!r} is {row['status']} in the ledger, which gives no reason."


def row_problems(contents: Contents, unit: Unit) -> Iterator[str]:
    """Say what does not fit, a sentence each: every ok row is in its shard, once, and as the manifest has it."""
    ok = {row["video_id"]: row for row in unit.ledger if row["status"] == "ok"}
    manifest = {row["video_id"]: row for row in contents.output.rows(unit.number)}
    seen: set[str] = set()
    for shard in unit.shards:
        table = contents.tables.get(shard.file)
        for row in light_rows(table) if table is not None else ():
            video_id = row["video_id"]
            if video_id in seen:
                yield f"{video_id!r} is twice in the shards of unit {unit.number}."
            elif video_id not in ok:
                yield f"The shard {shard.file} holds {video_id!r}, which the ledger does not call decoded."
            else:
                yield from _mismatches(row, ok[video_id], manifest[video_id], shard.file, contents)
            seen.add(video_id)
    for video_id, row in ok.items():
        if video_id not in seen and (row["shard"] in contents.tables or not _listed(unit, row["shard"])):
            yield f"{video_id!r} is ok in the ledger, but not in the shard {row['shard']}."


def _listed(unit: Unit, name: str) -> bool:
    return any(shard.file == name for shard in unit.shards)


def _mismatches(
    row: dict[str, Any], entry: dict[str, Any], given: dict[str, Any], shard: str, contents: Contents
) -> Iterator[str]:
    """Compare a shard's row with its ledger entry, its manifest row and the recipe."""
    name, count = f"{row['video_id']!r} in {shard}", len(row["frames"])
    if entry["shard"] != shard:
        yield f"{name}: the ledger says that it is in {entry['shard']}."
    if count != entry["frames"]:
        yield f"{name} has {count} frames, and {entry['frames']} in the ledger."
    yield from stored_problems(name, row, contents.output.recipe)
    different = [column for column in AS_IN_MANIFEST if row[column] != given[column]]
    if different:
        yield f"{name} has another {', '.join(different)} than the manifest."

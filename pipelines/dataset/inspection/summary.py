"""Figures of a prepared folder: outcomes, lengths, sizes, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from gare.schema import SCHEMA_VERSION
from pipelines.dataset.inspection.contents import Contents

SLOWEST = 5
HOUR_S = 3600.0
EMPTY_SPLIT = {"videos": 0, "decoded": 0, "captions": 0, "uncaptioned": 0, "hours": 0.0}


def summarise(contents: Contents) -> dict[str, Any]:
    """All figures as plain values, over the finished units.

    ``outcomes``: videos by status, reason and notes. ``duration_s`` and
    ``frames``: min, median, max and total over the decoded videos, None without any; ``codecs``, ``source_sizes``,
    ``frame_sizes``: decoded videos by codec and by "width x height", most first. ``decode``: videos per second of one
    process, and the slowest videos.
    """
    ledger, shard_rows = contents.ledger, list(contents.rows())
    known = [row["source_duration_s"] for row in shard_rows if row["source_duration_s"] is not None]
    finished, unfinished = len(contents.units), len(contents.unfinished)
    return {
        "folder": str(contents.folder),
        "finished": contents.dataset is not None and not unfinished,
        "units": {"finished": finished, "total": finished + unfinished},
        "schema_version": SCHEMA_VERSION,
        "digest": contents.dataset.get("digest") if contents.dataset else None,
        "recipe_digest": contents.output.digest,
        "manifest_sha256": contents.output.manifest_sha256,
        "videos": len(ledger),
        "outcomes": _outcomes(ledger),
        "splits": _splits(ledger, shard_rows),
        "duration_s": _spread(known),
        "frames": _spread([row["frames"] for row in shard_rows]),
        "frames_per_video": dict(sorted(Counter(row["frames"] for row in shard_rows).items())),
        "codecs": _counted(row["source_codec"] for row in shard_rows),
        "source_sizes": _counted(f"{row['source_width']} x {row['source_height']}" for row in shard_rows),
        "frame_sizes": _counted(f"{row['width']} x {row['height']}" for row in shard_rows),
        "bytes": {
            "shards": sum(shard.bytes for unit in contents.units for shard in unit.shards),
            "sources": sum(row["source_bytes"] for row in shard_rows),
        },
        "decode": _decode(ledger),
        "recipe": contents.output.recipe.model_dump(mode="json"),
        "damaged": contents.damaged,
    }


def _outcomes(ledger: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in ledger:
        counts[row["status"], row["reason"] or "", ", ".join(row["notes"])] += 1
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] != "ok", item[0]))
    return [{"status": s, "reason": r, "notes": n, "videos": count} for (s, r, n), count in ordered]


def _splits(ledger: Sequence[dict[str, Any]], shard_rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    splits: dict[str, dict[str, Any]] = {}
    for row in ledger:
        split = splits.setdefault(
            row["split"], {"videos": 0, "decoded": 0, "captions": 0, "uncaptioned": 0, "hours": 0.0}
        )
        split["videos"] += 1
    for row in shard_rows:
        split = splits.setdefault(row["split"], {**EMPTY_SPLIT})
        split["decoded"] += 1
        split["captions"] += len(row["captions"])
        split["uncaptioned"] += not row["captions"]
        split["hours"] += (row["source_duration_s"] or 0.0) / HOUR_S
    return dict(sorted(splits.items()))


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": median(values), "max": max(values), "total": sum(values)}


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _decode(ledger: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(row["decode_s"] for row in ledger)
    slowest = sorted(ledger, key=lambda row: (-row["decode_s"], row["video_id"]))[:SLOWEST]
    return {
        "seconds": seconds,
        "videos_per_s": len(ledger) / seconds if seconds > 0 else None,
        "tried_again": sum(row["attempts"] > 1 for row in ledger),
        "slowest": [{name: row[name] for name in ("video_id", "decode_s", "status", "uri")} for row in slowest],
    }

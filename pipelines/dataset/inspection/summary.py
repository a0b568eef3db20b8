"""Summarise a folder: counts, splits that share content, and a sheet of frames."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gare.common.dataset_file import stored_picture
from gare.common.errors import InputError
from gare.common.sheet import Cell, Row, write_sheet
from gare.schema import SCHEMA_VERSION
from pipelines.dataset.inspection.contents import Contents


class Stretch(NamedTuple):
    """A decoded video and its part of the file, in seconds."""

    start_s: float
    end_s: float
    split: str
    video_id: str


def leaks(contents: Contents) -> list[dict[str, Any]]:
    """Find groups of decoded videos in several splits that show the same content; checks of ids miss these.

    Files are the same if their SHA-256 is. Videos of one file form a group if their clips overlap, directly or through
    other clips. Each group: ``source_sha256``, ``splits`` (videos of each) and ``videos`` (``video_id``, ``split``,
    ``start_s``, ``end_s``; null if the clip has no bound), sorted.
    """
    found = []
    for sha256, stretches in sorted(_by_file(contents).items()):
        for group in _overlapping(sorted(stretches)):
            splits = sorted({one.split for one in group})
            if len(splits) > 1:
                counted = {split: sum(one.split == split for one in group) for split in splits}
                found.append({"source_sha256": sha256, "splits": counted, "videos": [_plain(one) for one in group]})
    return found


def leak_sentence(groups: list[dict[str, Any]]) -> str:
    """Say how many videos share content across splits, with an example."""
    first, *_, last = _one_of_each_split(groups[0])
    videos = sum(len(group["videos"]) for group in groups)
    return (
        f"{videos} videos of different splits show the same (equal files or overlapping clips, {len(groups)} groups), "
        f"such as {first['video_id']!r} in {first['split']} and {last['video_id']!r} in {last['split']}; what is "
        "measured on one split was seen in the other."
    )


def _one_of_each_split(group: dict[str, Any]) -> list[dict[str, Any]]:
    return list({video["split"]: video for video in reversed(group["videos"])}.values())


def _by_file(contents: Contents) -> dict[str, list[Stretch]]:
    files: dict[str, list[Stretch]] = defaultdict(list)
    for unit in contents.units:
        for entry, row in zip(unit.ledger, contents.output.rows(unit.number), strict=True):
            if entry["status"] == "ok" and entry["source_sha256"]:
                end = math.inf if row["end_s"] is None else row["end_s"]
                files[entry["source_sha256"]].append(
                    Stretch(row["start_s"] or 0.0, end, entry["split"], entry["video_id"])
                )
    return files


def _overlapping(stretches: list[Stretch]) -> Iterator[list[Stretch]]:
    """Group stretches, sorted by their start, that overlap directly or through others."""
    group, end = stretches[:1], stretches[0].end_s
    for _, one in pairwise(stretches):
        if one.start_s >= end:
            yield group
            group = []
        group.append(one)
        end = max(end, one.end_s) if len(group) > 1 else one.end_s
    yield group


def _plain(one: Stretch) -> dict[str, Any]:
    return one._asdict() | {"end_s": None if math.isinf(one.end_s) else one.end_s}


SHOWN_FRAMES = 12


def draw_sheet(contents: Contents, path: Path, *, videos: int, seed: int, split: str | None = None) -> int:
    """Write a PNG with up to ``videos`` decoded videos drawn by ``seed``, in the folder's order; return their number.

    If more than 12 frames are stored, 12 evenly spread ones are shown. Raises InputError if there is no decoded video
    (in ``split``), if a drawn one is damaged, or if the file cannot be written.
    """
    places = [
        (name, row)
        for name, table in contents.tables.items()
        for row, there in enumerate(table["split"].to_pylist())
        if split is None or there == split
    ]
    if not places:
        raise InputError(
            f"{contents.folder} has no decoded video{f' in the split {split!r}' if split else ''} to draw."
        )
    drawn = sorted(random.Random(seed).sample(range(len(places)), min(videos, len(places))))  # noqa: S311
    rows = [_row(contents.tables[name].slice(row, 1), contents.folder) for name, row in (places[i] for i in drawn)]
    title = f"{contents.folder.name}{f', {split}' if split else ''}: {len(rows)} of {len(places)} videos"
    write_sheet(path, title, rows, cell_inches=1.15, row_inches=1.5)
    return len(rows)


def _row(video: pa.Table, folder: Path) -> Row:
    values = video.select(["video_id", "split", "captions", "frame_codec", "height", "width", "timestamps_s"])
    one = values.to_pylist()[0]
    stored = video["frames"][0].values
    try:
        cells = [
            Cell(
                [stored_picture(stored[i].as_buffer(), one["frame_codec"], one["height"], one["width"])],
                f"{one['timestamps_s'][i]:.2f} s",
            )
            for i in np.linspace(0, len(stored) - 1, min(len(stored), SHOWN_FRAMES)).astype(int).tolist()
        ]
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"The frames of {one['video_id']!r} in {folder} are damaged: {error}.") from None
    captions = one["captions"]
    more = f" (and {len(captions) - 1} more)" if len(captions) > 1 else ""
    text = f"“{captions[0]}”{more}" if captions else "no caption"
    return Row(f"{one['video_id']} ({one['split']}): {text}", cells)


SLOWEST = 5
HOUR_S = 3600.0
EMPTY_SPLIT = {"videos": 0, "decoded": 0, "captions": 0, "uncaptioned": 0, "hours": 0.0}


def summarise(contents: Contents) -> dict[str, Any]:
    """Return all figures over the finished units as plain values.

    ``outcomes``: videos by status, reason and notes. ``duration_s`` and ``frames``: min, median, max and total over the
    decoded videos, None without any; ``codecs``, ``source_sizes``, ``frame_sizes``: decoded videos by codec and by
    "width x height", most first. ``decode``: videos per second of one process, and the slowest videos.
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

"""Videos of different splits that show the same: the same file, or clips of one file that overlap."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from pipelines.dataset.inspection.contents import Contents


class Stretch(NamedTuple):
    """A decoded video and the part of its file that it is, in seconds."""

    start_s: float
    end_s: float
    split: str
    video_id: str


def leaks(contents: Contents) -> list[dict[str, Any]]:
    """Find groups of decoded videos, of more than one split, that show the same content; no check of ids sees these.

    Files are the same by their SHA-256. Videos of one file are in a group when their clips overlap, directly or by
    way of others. Each group: ``source_sha256``, ``splits`` (videos of each) and ``videos`` (``video_id``, ``split``,
    ``start_s``, ``end_s``; null where the clip has no bound), sorted.
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
    """Say how many videos are in more than one split, and which for example."""
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
    """Cut stretches, sorted by their start, where none of those before reaches."""
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

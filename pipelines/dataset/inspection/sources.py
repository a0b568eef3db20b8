"""Whether a video's source still gives the stored row, when it is decoded again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from gare.common.dataset_file import stored_picture
from pipelines.dataset.inspection.contents import Contents
from pipelines.dataset.writer import shard_row
from pipelines.decode import DecodeError
from pipelines.decode.errors import SAYS_NOTHING
from pipelines.decode.isolated.decoder import shared_decoder


@dataclass(frozen=True)
class Source:
    """A decoded video: its manifest row, and where its shard row is."""

    manifest_row: dict[str, Any]
    shard: str
    row: int


def sampled(contents: Contents, sample: int | None, seed: int) -> list[Source]:
    """Draw ``sample`` decoded videos (None: all), in the folder's order."""
    places = [
        (unit.number, shard.file, row)
        for unit in contents.units
        for shard in unit.shards
        if shard.file in contents.tables
        for row in range(shard.rows)
    ]
    if sample is not None and sample < len(places):
        places = sorted(random.Random(seed).sample(places, sample))  # noqa: S311
    sources, number, rows = [], None, {}
    for unit, file, row in places:
        if unit != number:
            number, rows = unit, {given["video_id"]: given for given in contents.output.rows(unit)}
        video_id = contents.tables[file]["video_id"][row].as_py()
        if video_id in rows:  # else the comparison of rows says so
            sources.append(Source(rows[video_id], file, row))
    return sources


class UnverifiableError(Exception):
    """A source is gone or could not be decoded, for reasons that say nothing about it; the message is a sentence."""


def source_problem(source: Source, contents: Contents) -> str | None:
    """Decode a source again: a sentence when it or its row would now be another. Raises UnverifiableError."""
    given, recipe = source.manifest_row, contents.output.recipe
    name = f"{given['video_id']!r} ({given['uri']})"
    stored = contents.tables[source.shard].slice(source.row, 1).to_pylist()[0]
    try:
        decoded = shared_decoder().decode(given["uri"], recipe=recipe, start_s=given["start_s"], end_s=given["end_s"])
    except DecodeError as error:
        if error.kind in SAYS_NOTHING:
            raise UnverifiableError(f"{name} could not be verified: {error.kind}. {error.message}") from None
        return f"{name} was decoded then and cannot be now: {error.kind}. {error.message}"
    now, then = (decoded.bytes, decoded.sha256), (stored["source_bytes"], stored["source_sha256"])
    if now != then:
        files = " and not ".join(f"{size} bytes with SHA-256 {sha256[:16]}" for size, sha256 in (now, then))
        return f"{name} is another file than was prepared: {files}."
    anew = shard_row(given, decoded.video, recipe, size=decoded.bytes, sha256=decoded.sha256)
    different = [column for column, value in anew.items() if stored[column] != value]
    if not different:
        return None
    how = _frames_differ(stored, anew) if "frames" in different else ""
    if contents.output.lacking:
        raise UnverifiableError(
            f"{name} was decoded by an older version of this software, which made other {', '.join(different)}{how}."
        )
    return f"{name} decodes to another {', '.join(different)} than is stored{how}."


def _frames_differ(stored: dict[str, Any], anew: dict[str, Any]) -> str:
    """How many frames differ, and by how much."""
    pairs = list(zip(stored["frames"], anew["frames"], strict=False))
    if len(stored["frames"]) != len(anew["frames"]):
        return f" ({len(anew['frames'])} frames in place of {len(stored['frames'])})"
    differences = []
    for there, now in pairs:
        if there == now:
            continue
        try:
            one, other = (
                stored_picture(frame, row["frame_codec"], row["height"], row["width"])
                for frame, row in ((there, stored), (now, anew))
            )
            differences.append(float(np.abs(one.astype(np.int16) - other).mean()))
        except (OSError, ValueError):
            return f" (a stored frame is no picture of {stored['width']} x {stored['height']} pixels)"
    return f" ({len(differences)} of {len(pairs)} frames, by {max(differences):.3g} of 255 on average at most)"

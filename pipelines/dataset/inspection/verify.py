"""Verify that a folder is as prepare left it: its files, their rows, and a sample of the sources."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from gare.common.dataset_file import stored_picture
from gare.common.files import file_digest
from gare.schema import DATASET_FILE, LEDGER_FOLDER, SHARD_FOLDER, UNIT_KEY, Status
from pipelines.dataset.inspection.contents import Contents, Unit
from pipelines.dataset.layout import MANIFEST_FILE, RECIPE_FILE, ShardFile, recipe_digest
from pipelines.dataset.ledger import dataset_manifest
from pipelines.dataset.shard_rows import light_rows, shard_row, stored_problems
from pipelines.decode import DecodeError
from pipelines.decode.errors import SAYS_NOTHING
from pipelines.decode.isolated.decoder import shared_decoder
from pipelines.manifest.rows import content_digest

AS_IN_MANIFEST = ("uri", "split", "captions", "attributes")


def ledger_problems(ledger: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each ledger row that is invalid by itself."""
    for row in ledger:
        if row["status"] not in get_args(Status):
            yield f"{row['video_id']!r} has the status {row['status']!r} in the ledger, which does not exist."
        elif row["status"] == "ok" and row["shard"] is None:
            yield f"{row['video_id']!r} is ok in the ledger, which names no shard for it."
        elif row["status"] != "ok" and row["reason"] is None:
            yield f"{row['video_id']!r} is {row['status']} in the ledger, which gives no reason."


def row_problems(contents: Contents, unit: Unit) -> Iterator[str]:
    """Yield a sentence for each mismatch: every ok row must be in its shard once, with the manifest's values."""
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


@dataclass(frozen=True)
class Source:
    """A decoded video: its manifest row, and the place of its shard row."""

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
        if video_id in rows:  # otherwise the comparison of rows reports it
            sources.append(Source(rows[video_id], file, row))
    return sources


class UnverifiableError(Exception):
    """A source is gone or could not be decoded, for reasons that do not concern its content; the message says which."""


def source_problem(source: Source, contents: Contents) -> str | None:
    """Decode a source again; return a sentence if it or its row has changed, or None. Raises UnverifiableError."""
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
    fresh = shard_row(given, decoded.video, recipe, size=decoded.bytes, sha256=decoded.sha256)
    different = [column for column, value in fresh.items() if stored[column] != value]
    if not different:
        return None
    how = _frames_differ(stored, fresh) if "frames" in different else ""
    if contents.output.lacking:
        raise UnverifiableError(
            f"{name} was decoded by an older version of this software, which made other {', '.join(different)}{how}."
        )
    return f"{name} decodes to another {', '.join(different)} than is stored{how}."


def _frames_differ(stored: dict[str, Any], fresh: dict[str, Any]) -> str:
    """Say how many frames differ, and by how much."""
    pairs = list(zip(stored["frames"], fresh["frames"], strict=False))
    if len(stored["frames"]) != len(fresh["frames"]):
        return f" ({len(fresh['frames'])} frames instead of {len(stored['frames'])})"
    differences = []
    for there, now in pairs:
        if there == now:
            continue
        try:
            one, other = (
                stored_picture(frame, row["frame_codec"], row["height"], row["width"])
                for frame, row in ((there, stored), (now, fresh))
            )
            differences.append(float(np.abs(one.astype(np.int16) - other).mean()))
        except (OSError, ValueError):
            return f" (a stored frame is no picture of {stored['width']} x {stored['height']} pixels)"
    return f" ({len(differences)} of {len(pairs)} frames, by {max(differences):.3g} of 255 on average at most)"


@dataclass
class Verdict:
    """The findings, a sentence each, and how much was checked.

    ``problems``: faults; ``unverifiable``: sources of the sample that are gone or out of reach; ``shards`` and
    ``rows``: all of them were checked; ``sources``: how many were decoded again.
    """

    problems: list[str] = field(default_factory=list)
    unverifiable: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    sources: int = 0


def verify(
    contents: Contents, *, sample: int | None, seed: int = 0, on_progress: Callable[[int, int], None] = lambda *_: None
) -> Verdict:
    """Check digests, files and rows of a folder, and decode ``sample`` of its videos again, drawn by ``seed``.

    ``sample``: 0 for none, None for all. ``on_progress`` receives the number of shards and sources done, and of all.
    The decoded frames, times and facts of a source must equal those of its row, bit for bit.
    """
    verdict = Verdict([*_folder_problems(contents), *contents.damaged])
    shards = [shard for unit in contents.units for shard in unit.shards]
    sources = sampled(contents, sample, seed)
    done = 0
    for shard in shards:
        verdict.problems.extend(_shard_problems(contents, shard))
        done += 1
        on_progress(done, len(shards) + len(sources))
    for unit in contents.units:
        verdict.problems.extend(row_problems(contents, unit))
    verdict.shards, verdict.rows = len(shards), len(contents.ledger)
    for source in sources:
        try:
            problem = source_problem(source, contents)
            verdict.problems.extend([problem] if problem else [])
            verdict.sources += 1
        except UnverifiableError as error:
            verdict.unverifiable.append(str(error))
        done += 1
        on_progress(done, len(shards) + len(sources))
    return verdict


def _folder_problems(contents: Contents) -> Iterator[str]:
    output = contents.output
    if recipe_digest(output.recipe, output.lacking) != output.digest:
        yield f"{RECIPE_FILE} has another digest than its recipe gives: it was changed, or written by another version."
    with pa.memory_map(str(output.folder / MANIFEST_FILE)) as source:
        digest = content_digest(pa.ipc.open_file(source).read_all())
    if digest != output.manifest_sha256:
        yield f"{MANIFEST_FILE} has other rows than {RECIPE_FILE} says."
    yield from contents.unfinished.values()
    odd = list(ledger_problems(contents.ledger))
    yield from odd
    if contents.dataset is None:
        yield f"There is no {DATASET_FILE}: the folder is not finished."
    elif not contents.unfinished and not odd:
        for name, value in dataset_manifest(output).items():
            if contents.dataset.get(name) != value:
                yield f"{DATASET_FILE} has other {name} than the ledger parts say."
    yield from _strays(contents)


def _strays(contents: Contents) -> Iterator[str]:
    """Name files that nothing in the folder refers to; those of unfinished units are made again, so they are fine."""
    known = {shard.file for unit in contents.units for shard in unit.shards}
    known |= {contents.output.ledger(number).name for number in range(contents.output.units())}
    unfinished = tuple(f"unit-{number:06d}" for number in contents.unfinished)
    for name in (SHARD_FOLDER, LEDGER_FOLDER):
        folder = contents.folder / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in known and not path.name.lstrip(".").startswith(unfinished or ("/",)):
                yield f"{name}/{path.name} belongs to no work unit."


def _shard_problems(contents: Contents, shard: ShardFile) -> Iterator[str]:
    try:
        digest = file_digest(contents.output.shards / shard.file)
    except OSError as error:
        yield f"The shard {shard.file} cannot be read: {error.strerror}."
        return
    if digest != shard.sha256:
        yield f"The shard {shard.file} has another SHA-256 than its ledger part says: it was changed or is damaged."
    table = contents.tables.get(shard.file)
    if table is not None and table.schema.metadata.get(UNIT_KEY) != str(shard.unit).encode():
        yield f"The shard {shard.file} is not of unit {shard.unit}, whose ledger part lists it."

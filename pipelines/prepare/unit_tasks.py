"""List the work of a data job: unfinished units, rows to decode again, and changed sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pyarrow.fs import FileType

from gare.common.addresses import open_address
from gare.common.console import warn
from gare.common.errors import InputError
from gare.common.files import file_digest
from gare.common.redact import redact
from pipelines.dataset.layout import Output
from pipelines.dataset.ledger import Absent, Ledger, Part, Unfinished, once_finished
from pipelines.decode import DecodeError
from pipelines.decode.isolated.fetching import local_path

COLUMNS = ("video_id", "uri", "status", "source_bytes", "source_mtime_ns", "source_sha256")
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Change:
    """A row (by position in its unit) whose source changed, and how."""

    row: int
    video_id: str
    uri: str
    what: str


@dataclass(frozen=True)
class Unseen:
    """A row whose source could not be checked; it may still exist."""

    video_id: str
    uri: str
    why: str


def changed_sources(ledger: pa.Table) -> tuple[list[Change], list[Unseen]]:
    """Return the rows of a unit's ledger part whose source has changed, and those whose source could not be checked.

    A different size is a change; a different time with the same size is one if the SHA-256 differs too. A source that
    is gone has not changed: the shard holds its frames. One that storage or network cannot provide is not checked.
    """
    changes, unseen = [], []
    for position, row in enumerate(ledger.select(COLUMNS).to_pylist()):
        if row["status"] == "ok" and row["source_bytes"] is not None:
            try:
                what = _change(row)
            except (FileNotFoundError, NotADirectoryError, DecodeError):
                continue
            except (OSError, ValueError, pa.ArrowException) as error:
                why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
                unseen.append(Unseen(row["video_id"], row["uri"], redact(why)))
                continue
            if what:
                changes.append(Change(position, row["video_id"], row["uri"], what))
    return changes, unseen


def _change(row: dict[str, Any]) -> str | None:
    found = _look(row["uri"])
    if found is None:
        return None
    size, mtime_ns = found
    if size != row["source_bytes"]:
        return f"{row['source_bytes']} bytes then, {size} now"
    if mtime_ns == row["source_mtime_ns"] or mtime_ns is None:
        return None
    same = _digest(row["uri"]) == row["source_sha256"]
    return None if same else "the same size, another SHA-256"


def _look(uri: str) -> tuple[int, int | None] | None:
    """Return size and time of the last change; None if there is no such file."""
    path = local_path(uri)
    if path is not None:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    system, remote = open_address(uri, keep=True)
    info = system.get_file_info(remote)
    return (int(info.size), info.mtime_ns) if info.type == FileType.File and info.size is not None else None


def _digest(uri: str) -> str:
    path = local_path(uri)
    if path is not None:
        return file_digest(path)
    system, remote = open_address(uri, keep=True)
    digest = hashlib.sha256()
    with system.open_input_stream(remote, compression=None) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


OnChange = Literal["refuse", "redo", "ignore"]
"""Handling of videos whose source changed: fail, decode them again, or do not check."""


@dataclass(frozen=True)
class UnitTask:
    """A unit to process: all its ``videos``, or only those at the positions ``again``, leaving the others as they are.

    ``damage``: the fault in the files of a unit that was finished once; the unit is repaired.
    """

    unit: int
    videos: int
    again: tuple[int, ...] | None = None
    damage: str = ""


def tasks(output: Output, *, retry_failed: bool, changed: OnChange) -> list[UnitTask]:
    """List the work in a folder by its ledger; damaged units come last.

    ``retry_failed``: include the videos that failed. Raises InputError for changed sources if ``changed`` is
    ``refuse``, and if storage cannot be read.
    """
    found: list[UnitTask] = []
    refused: list[Change] = []
    unseen: list[Unseen] = []
    once = once_finished(output.place)
    for unit, state in enumerate(Ledger(output).each()):
        if isinstance(state, Unfinished):
            never = isinstance(state, Absent) and once is not None and unit not in once
            found.append(UnitTask(unit, output.batch(unit).num_rows, damage="" if never else str(state)))
            continue
        again = set(_failed(state)) if retry_failed else set()
        if changed != "ignore":
            changes, out_of_sight = changed_sources(state.table)
            unseen.extend(out_of_sight)
            (refused if changed == "refuse" else []).extend(changes)
            again |= {change.row for change in changes}
        if again:
            found.append(UnitTask(unit, len(again), tuple(sorted(again))))
    if unseen:
        warn(_not_seen(unseen))
    if refused:
        raise InputError(_sentence(output, refused))
    damaged = [task for task in found if task.damage]
    if damaged:
        warn(_repaired(damaged))
    return [task for task in found if not task.damage] + damaged


def _failed(part: Part) -> Iterator[int]:
    for position, status in enumerate(part.table["status"].to_pylist()):
        if status == "failed":
            yield position


def _sentence(output: Output, changes: list[Change]) -> str:
    first = changes[0]
    number = "A source was" if len(changes) == 1 else f"{len(changes)} sources were"
    return (
        f"{number} changed since {output.place} was made, {first.video_id!r} first ({first.uri}: {first.what}). "
        "--changed redo decodes them again, --changed ignore keeps what is stored."
    )


def _not_seen(unseen: list[Unseen]) -> str:
    first = unseen[0]
    number = "A source" if len(unseen) == 1 else f"{len(unseen)} sources"
    return (
        f"{number} could not be looked at, {first.video_id!r} first ({first.uri}: {first.why}). What is stored of them "
        "stays, whether they were changed or not."
    )


def _repaired(damaged: list[UnitTask]) -> str:
    number = "A work unit is" if len(damaged) == 1 else f"{len(damaged)} work units are"
    return (
        f"{number} damaged, unit {damaged[0].unit} first: {damaged[0].damage} They are processed again; those of "
        "their files that are complete stay."
    )

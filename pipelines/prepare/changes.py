"""Sources that are not what they were when they were decoded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileType

from gare.common.addresses import open_address
from gare.common.files import file_digest
from gare.common.redact import redact
from pipelines.decode import DecodeError
from pipelines.decode.isolated.addresses import local_path

COLUMNS = ("video_id", "uri", "status", "source_bytes", "source_mtime_ns", "source_sha256")
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Change:
    """A row (by position in its unit) whose source was changed, and what the source is now."""

    row: int
    video_id: str
    uri: str
    what: str


@dataclass(frozen=True)
class Unseen:
    """A row whose source is there, perhaps, but could not be looked at."""

    video_id: str
    uri: str
    why: str


def changed_sources(ledger: pa.Table) -> tuple[list[Change], list[Unseen]]:
    """The rows of a unit's ledger part that were decoded from something else than is there now, and those not known.

    Another size is a change; another time with the same size is one when the SHA-256 differs too. A source that is
    gone is none: the shard holds what it gave. One that storage or network does not give is not known.
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
    """Size and time of the last change; None where there is no such file."""
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

"""A run's record for trackers, ``tracking.json``: what its settings and its history do not contain.

A tracker is brought up to date from this file, ``config.yaml``, ``history.jsonl`` and ``system-*.jsonl`` alone
(``gare.tracking.sync``).
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from gare.common.addresses import at_full_path, sqlite_path, sqlite_uri
from gare.common.console import warn
from gare.common.errors import InputError, StorageError
from gare.common.files import write_json
from gare.common.locks import lock_within
from gare.common.records import checked, load_json
from gare.common.storage import read_file
from gare.tracking.names import RunHandle, tag_value

RECORD_FILE = "tracking.json"
FORMER_FILE = "mlflow.json"
OFFLINE = "offline-"
"""Prefix of the ids of runs that an earlier version started without reaching MLflow; the rest is their token."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Record(BaseModel):
    """A run as trackers know it.

    ``uri``: of the tracker; a SQLite file in a folder above the run's is relative to the run's folder, so that they
    move together. ``token``: finds a run whose id was not written down because the process was killed or the answer was
    lost. ``parent``: folder of the parent run, relative to this one. ``begun_ms``: None if an earlier version began the
    run. ``metrics``: name, value (None: NaN), time (ms) and step. ``artifacts``: path among the artifacts -> file or
    folder, relative to the run's. ``sent``: each artifact's state when it was copied. ``synced``: the files' state when
    the tracker had all of them. ``changed_ms``: when the record was written, to find the newer of two copies.
    """

    uri: str
    experiment: str
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    name: str = ""
    parent: str | None = None
    tags: dict[str, str] = {}
    description: str | None = None
    status: Status | None = None
    begun_ms: int | None = None
    ended_ms: int | None = None
    dataset: dict[str, str] = {}
    metrics: list[tuple[str, float | None, int, int]] = []
    artifacts: dict[str, str] = {}
    sent: dict[str, str] = {}
    synced: str | None = None
    changed_ms: int = 0

    def address(self, folder: Path) -> str:
        """Return the tracker's full address, for a record in ``folder``."""
        return at_full_path(self.uri, folder)

    def renew(self) -> None:
        """Turn it into a new run for the tracker, to which nothing was sent yet."""
        self.token, self.run_id, self.sent, self.synced = uuid.uuid4().hex, None, {}, None
        self.begun_ms = self.begun_ms or now_ms()

    def add_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Add the metrics of a step; unchanged ones keep their time."""
        at = now_ms()
        for name, value in values.items():
            figure = value if math.isfinite(value) else None
            before = [row for row in self.metrics if (row[0], row[3]) == (name, step)]
            if [row[1] for row in before] != [figure]:
                self.metrics = [row for row in self.metrics if row not in before] + [(name, figure, at, step)]


def read_record(folder: Path) -> Record | None:
    """Return the record of a run's folder, including earlier formats; None if it is missing or damaged.

    Raises StorageError if it cannot be read: a recorded run must not be mistaken for a new one.
    """
    for name, read in ((RECORD_FILE, _parsed), (FORMER_FILE, _former)):
        try:
            text = read_file(folder / name)
            if text is not None:
                return read(text, folder)
        except StorageError:
            raise
        except (InputError, ValueError, TypeError, AttributeError):
            warn_once(f"{folder / name} is damaged; what it says of the run is not recorded.")
            return None
    return None


def read_handle(folder: Path) -> RunHandle | None:
    """Return the tracker's run for a run's folder; None if unknown."""
    record = read_record(folder)
    if record is None or record.run_id is None:
        return None
    return RunHandle(record.address(folder), record.experiment, record.run_id)


def changed_at(text: str | None) -> int:
    """Return when a copy of a record was written, in ms; 0 if it does not say, -1 if missing or damaged."""
    try:
        return -1 if text is None else int(load_json(text).get("changed_ms", 0))
    except (ValueError, TypeError, AttributeError):
        return -1


def forget(folder: Path) -> None:
    """Remove the record, so that the folder's next run is recorded as a new one."""
    for name in (RECORD_FILE, FORMER_FILE):
        (folder / name).unlink(missing_ok=True)


def write_record(folder: Path, record: Record) -> None:
    """Write the record, atomically; InputError if that fails."""
    record.changed_ms = max(now_ms(), record.changed_ms + 1)  # increases even if the clock lags behind
    write_json(folder / RECORD_FILE, record.model_dump(mode="json"))
    (folder / FORMER_FILE).unlink(missing_ok=True)


@contextmanager
def updating(folder: Path) -> Iterator[Record | None]:
    """Yield the folder's record for changes, None if there is none, and write it; one process at a time."""
    if read_record(folder) is None:
        yield None
        return
    with lock_within(folder / ".tracking.lock", 30.0):
        record = read_record(folder)
        before = record.model_copy(deep=True) if record is not None else None
        yield record
        if record is not None and record != before:
            write_record(folder, record)


def note_down(
    folder: Path,
    *,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    artifacts: Mapping[str, Path] | None = None,
    description: str | None = None,
    status: Status | None = None,
) -> None:
    """Add to the record of a run's folder, if it has one. If the disk fails, it only warns.

    Args:
        folder: The run's.
        tags: To be set.
        metrics: Values at ``step``.
        step: Of the metrics.
        artifacts: By path among the run's artifacts, a file of the same name or a folder.
        description: In Markdown.
        status: How it ended, now.
    """
    try:
        with updating(folder) as record:
            if record is None:
                return
            record.tags |= {key: tag_value(value) for key, value in (tags or {}).items()}
            record.add_metrics(metrics or {}, step)
            record.artifacts |= {to: _relative(path, folder) for to, path in (artifacts or {}).items()}
            record.description = tag_value(description) if description is not None else record.description
            if status is not None and status != record.status:
                record.status, record.ended_ms = status, None if status == "RUNNING" else now_ms()
    except (InputError, OSError) as error:
        warn_once(f"{folder / RECORD_FILE} cannot be brought up to date, so the tracker will lack something: {error}")


def relative_uri(uri: str, folder: Path) -> str:
    """Return a tracker's address in the form for the record in ``folder``."""
    database = sqlite_path(uri)
    if database is None or database.parent not in folder.resolve().parents:
        return uri
    return sqlite_uri(Path(os.path.relpath(database, folder.resolve()))) + "".join(uri.partition("?")[1:])


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


@lru_cache
def warn_once(text: str) -> None:
    """Warn, once for each text."""
    warn(text)


def _parsed(text: str, folder: Path) -> Record:
    record = Record.model_validate_json(text)
    record.address(folder)
    return record


def _former(text: str, folder: Path) -> Record:
    """Make a record from the file in which an earlier version noted address, experiment and id."""
    handle = checked(RunHandle, load_json(text))
    uri, database = handle.uri, sqlite_path(handle.uri)
    if database is not None and not database.is_file():  # moved, perhaps with the run
        beside = [above / database.name for above in folder.resolve().parents[:3]]
        uri = next((sqlite_uri(file) for file in beside if file.is_file()), uri)
    record = Record(uri=uri, experiment=handle.experiment)
    take_up(record, handle.run_id)
    return record


def take_up(record: Record, run_id: str | None) -> None:
    """Assign a record to a run that an earlier version began."""
    if run_id is not None and run_id.startswith(OFFLINE):
        record.token = run_id.removeprefix(OFFLINE)
    elif run_id is not None:
        record.run_id = run_id


def _relative(path: Path, folder: Path) -> str:
    full, inside = path.resolve(), folder.resolve()
    return str(full.relative_to(inside)) if full.is_relative_to(inside) else str(full)

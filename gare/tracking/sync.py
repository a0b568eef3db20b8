"""Bring a tracker up to date with the files of a run's folder, which are the record.

This is possible at any time and any number of times: while a run trains, at its end, by the next command on the folder.
Nothing is sent twice, even if a resumed run repeats steps: for each metric only steps beyond the tracker's last one are
sent.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from gare.common.console import note, warn
from gare.common.errors import GareError, StorageError
from gare.common.files import digest_of
from gare.common.locks import lock_within
from gare.common.redact import redact
from gare.config.tree import flatten, load_saved
from gare.tracking.former import replay
from gare.tracking.names import metric_name, parameter, tag_value
from gare.tracking.record import Record, read_handle, read_record, updating, warn_once
from gare.tracking.rows import Rows
from gare.tracking.tracker import Changes, Denied, Found, Refused, Tracker, Unreachable
from gare.tracking.trackers import tracker_at

SETTINGS = "config.yaml"
FLUSH_SECONDS = 3.0
JOIN_SECONDS = 45.0
LOCK_SECONDS = 10.0
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0
WARNING_TAG = "gare.warning"
NOTHING = (-1, 0, math.nan)
"""The last point of a metric without points."""


@dataclass
class Line:
    """A tracker from this process's view: when to try again, and which warnings were given."""

    uri: str
    wait: float = FIRST_WAIT
    again_at: float = 0.0
    away: bool = False
    refused: bool = False

    def failed(self, error: Exception, folder: Path) -> None:
        """Handle an error in sending a folder's files, and report it, once for each kind."""
        if not isinstance(error, Unreachable):
            self.refuses("the run", error)
            return
        self.again_at = time.monotonic() + self.wait
        self.wait = min(2 * self.wait, LONGEST_WAIT)
        if not self.away:
            self.away = True
            says = f"refuses access, {error.fix}" if isinstance(error, Denied) else "cannot be used now"
            warn(
                f"The tracker at {redact(self.uri)} {says} ({error}). The work continues; what is to be recorded is in "
                f"{folder} and is sent when the tracker accepts it, at the latest by the folder's next command."
            )

    def answers(self) -> None:
        """Note that the tracker answers."""
        if self.away:
            note(f"The tracker at {redact(self.uri)} answers; what waited for it is being sent.")
        self.wait, self.again_at, self.away = FIRST_WAIT, 0.0, False

    def refuses(self, what: str, refusal: Exception) -> None:
        """Report once that something is not recorded."""
        if not self.refused:
            self.refused = True
            warn(
                f"The tracker at {redact(self.uri)} did not record something ({what}): {redact(str(refusal))}. The run "
                "continues, and its history.jsonl has every figure; further losses are not reported again."
            )


line_to = lru_cache(Line)


class Sync:
    """A sender from one run's folder to its tracker, which remembers what it sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = Rows(folder)
        self._line = Line("")
        self._tracker: Tracker | None = None
        self._found: Found | None = None
        self._sent: dict[str, Changes] = {}
        self._params: dict[str, str] = {}

    def attempt(self, *, files: bool = True, again: bool = True) -> bool:
        """Send what is new, with artifacts if ``files``; returns whether nothing waits any more.

        A tracker that failed a moment ago is only tried if ``again``. Errors of the tracker are never raised.
        """
        try:
            record = read_record(self._folder)
        except StorageError as error:
            warn_once(f"{error} What it holds is sent by the folder's next command.")
            return False
        if record is None:
            return True
        line = line_to(record.address(self._folder))
        if not again and time.monotonic() < line.again_at:
            return False
        with lock_within(self._folder / ".sync.lock", LOCK_SECONDS if again else 0.0) as mine:
            try:
                if mine:
                    self.push(files=files)
            except (Unreachable, Refused, GareError, OSError, ValueError) as error:
                line.failed(error, self._folder)
                if isinstance(error, Refused):  # permanent
                    with suppress(GareError, OSError):
                        self._mark(self._stamp(record))
                return isinstance(error, Refused)
        if again and not mine:
            warn_once(
                f"Another process is sending {self._folder} to its tracker; what this one added is sent by the next "
                "command on that folder."
            )
        return mine

    def push(self, *, files: bool = True) -> None:
        """Send what is new. Raises Unreachable, and Refused if the tracker no longer has the run."""
        record = read_record(self._folder)
        stamp = self._stamp(record) if record is not None and files else None
        if record is None or (files and record.synced == stamp):
            return
        self._line = line_to(record.address(self._folder))
        try:
            found = self._find(record)
            self._send("parameters", Changes(params=self._params))
            self._send("tags", Changes(tags=record.tags, description=record.description))
            self._send("dataset", Changes(dataset=record.dataset))
            self._send_rows(record, found)
            if files:
                self._copy_files(record)
            self._send("status", Changes(status=record.status, ended_ms=record.ended_ms))
        except Unreachable:
            self._found = None  # ask again what it has: an answer may be lost
            raise
        self._line.answers()
        if files:
            self._mark(stamp)

    def _find(self, record: Record) -> Found:
        if self._found is not None and self._found.run_id == record.run_id:
            return self._found
        self._tracker = tracker = tracker_at(record.address(self._folder), record.experiment)
        replay(self._folder, record, tracker, partial(self._line.refuses, "an earlier record"))
        parent = None
        if record.parent is not None and record.run_id is None:
            above = self._folder / record.parent
            if read_handle(above) is None:
                with lock_within(above / ".sync.lock", LOCK_SECONDS):
                    Sync(above).push(files=False)
            handle = read_handle(above)
            parent = None if handle is None else handle.run_id
        self._found, self._sent = tracker.find(record, parent), {}
        self._params = {key: value for key, value in self._settings().items() if key not in self._found.params}
        if record.run_id is None:
            with updating(self._folder) as written:
                if written is not None and written.token == record.token:
                    written.run_id = self._found.run_id
        return self._found

    def _settings(self) -> dict[str, str]:
        with suppress(GareError):  # settings of another version, or not written yet
            return {key: parameter(value) for key, value in flatten(load_saved(self._folder / SETTINGS)).items()}
        return {}

    def _send_rows(self, record: Record, found: Found) -> None:
        for points, warning in self._rows.batches():
            fresh = []
            for point in points:
                if point[3] > found.latest.get(point[0], NOTHING)[0]:
                    found.latest[point[0]] = point[3], point[2], point[1]
                    fresh.append(point)
            self._log("metrics", Changes(points=tuple(fresh)))
            if warning is not None:
                self._log("a warning", Changes(tags={WARNING_TAG: tag_value(warning)}))
        for name, value, at, step in record.metrics:
            known, figure = metric_name(name), math.nan if value is None else value
            last = found.latest.get(known, NOTHING)
            if (step, at) > last[:2] and (step, figure) != (last[0], last[2]):
                found.latest[known] = step, at, figure
                self._log("metrics", Changes(points=((known, figure, at, step),)))

    def _copy_files(self, record: Record) -> None:
        settings = {SETTINGS: SETTINGS} if (self._folder / SETTINGS).is_file() else {}
        for to, name in (settings | record.artifacts).items():
            path = self._folder / name
            stamp = _stamp_of(path)
            if stamp == record.sent.get(to):
                continue
            if not stamp:
                if to not in record.sent:
                    self._line.refuses("a file", Refused(f"{path} is gone"))
            elif to == SETTINGS:
                with tempfile.TemporaryDirectory() as temporary:
                    clean = Path(temporary) / SETTINGS
                    clean.write_text(redact(path.read_text(encoding="utf-8")), encoding="utf-8")
                    self._copy(clean, to)
            else:
                self._copy(path, to)
            with updating(self._folder) as written:
                if written is not None:
                    written.sent[to] = stamp

    def _send(self, what: str, changes: Changes) -> None:
        """Send values that are set as a whole, unless they equal those sent last."""
        if changes != self._sent.get(what, Changes()):
            self._log(what, changes)
            self._sent[what] = changes

    def _log(self, what: str, changes: Changes) -> None:
        if changes != Changes():
            self._ask(what, lambda tracker, run_id: tracker.log(run_id, changes))

    def _copy(self, path: Path, to: str) -> None:
        self._ask(f"the file {to}", lambda tracker, run_id: tracker.copy(run_id, path, to))

    def _ask(self, what: str, do: Callable[[Tracker, str], None]) -> None:
        assert self._tracker is not None and self._found is not None  # noqa: S101, PT018 - _find ran before
        try:
            do(self._tracker, self._found.run_id)
        except Refused as refusal:
            self._line.refuses(what, refusal)

    def _stamp(self, record: Record) -> str:
        """Return a digest of the record and its files, which changes when there is something new to send."""
        values = record.model_dump(mode="json", exclude={"sent", "synced", "run_id", "changed_ms"})
        artifacts = [_stamp_of(self._folder / name) for name in record.artifacts.values()]
        return digest_of([values, self._rows.stamp(), artifacts])

    def _mark(self, stamp: str | None) -> None:
        with updating(self._folder) as record:
            if record is not None:
                record.synced = stamp


def sync(folder: Path, *, again: bool = True) -> bool:
    """Bring the tracker up to date with a run's folder; returns whether nothing waits any more.

    Does nothing if the folder has no record or, unless ``again``, if the tracker failed a moment ago. Errors of the
    tracker are never raised.
    """
    return Sync(folder).attempt(again=again)


@contextmanager
def syncing(folder: Path, *, wanted: bool = True) -> Iterator[bool]:
    """Send a run's metrics while the block runs, from a thread that nothing waits for.

    Yields whether the folder has a record. The next ``sync`` sends what the tracker does not accept in time.
    """
    if not wanted or read_record(folder) is None:
        yield False
        return
    stop = threading.Event()
    thread = threading.Thread(target=_keep_up, args=(folder, stop), daemon=True)
    thread.start()
    try:
        yield True
    finally:
        stop.set()
        thread.join(JOIN_SECONDS)


def _keep_up(folder: Path, stop: threading.Event) -> None:
    way, last_look = Sync(folder), False
    while not last_look:
        last_look = stop.wait(FLUSH_SECONDS)
        way.attempt(files=False, again=last_look)


def _stamp_of(path: Path) -> str:
    """Return a digest of sizes and times of a file, or of all files in a folder; empty if there are none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    status = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return digest_of(status) if status else ""

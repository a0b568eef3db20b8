"""From a run's files into MLflow while it trains: its history and what its machines were doing.

The files are the record. What MLflow missed is read from them again, and what it has is not sent twice, also where
a resumed run repeats steps: of each metric only steps beyond the last one that the store has are sent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gare.common.records import load_json
from gare.tracking.names import Point, RunHandle, numbers, points, tag_value
from gare.tracking.outbox import outbox
from gare.tracking.store import Refused, Store, Unreachable

HISTORY = "history.jsonl"
SYSTEM = "system-*.jsonl"
FLUSH_SECONDS = 3.0
ROWS_AT_ONCE = 500
JOIN_SECONDS = 45.0
WARNING_TAG = "gare.warning"


class Tail:
    """The entries of a file that others append to, or put another in the place of, which is then read anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._position = self._next = 0

    def peek(self, most: int) -> list[dict[str, Any]]:
        """The next whole entries; the same again until ``advance`` is called."""
        rows: list[dict[str, Any]] = []
        try:
            stream = self._path.open("rb")
        except OSError:
            return rows
        with stream:
            status = self._path.stat()
            if self._file != (status.st_dev, status.st_ino) or status.st_size < self._position:
                self._file, self._position = (status.st_dev, status.st_ino), 0
            stream.seek(self._position)
            self._next = self._position
            for line in stream:
                if not line.endswith(b"\n") or len(rows) == most:
                    break
                self._next += len(line)
                row = _entry(line)
                if row is not None:
                    rows.append(row)
        return rows

    def advance(self) -> None:
        """The entries of the last ``peek`` are done with."""
        self._position = self._next


class Rows:
    """What a run's files say that the store does not have yet."""

    def __init__(self, target: Store, run_id: str, folder: Path) -> None:
        self._store, self._run_id, self._folder = target, run_id, folder
        self._tails: dict[Path, Tail] = {}
        self._reached: dict[str, int] | None = None
        self._begun: float | None = None

    def push(self) -> None:
        """Send it. Raises Unreachable, and goes on from there when called again."""
        for path in (self._folder / HISTORY, *sorted(self._folder.glob(SYSTEM))):
            tail = self._tails.setdefault(path, Tail(path))
            while rows := tail.peek(ROWS_AT_ONCE):
                self._send(rows, path)
                tail.advance()

    def _send(self, rows: list[dict[str, Any]], path: Path) -> None:
        if self._reached is None:
            self._reached = self._store.reached(self._run_id)
        reached = self._reached
        every = [point for row in rows for point in self._points(row, path)]
        fresh = [point for point in every if point[3] > reached.get(point[0], -1)]
        self._store.log(self._run_id, fresh)
        for name, _, _, step in fresh:
            reached[name] = step
        for row in rows:
            if "warning" in row:
                self._tag(str(row["warning"]))

    def _points(self, row: Mapping[str, Any], path: Path) -> Iterator[Point]:
        at = float(row.get("time", 0.0))
        if path.name == HISTORY:
            yield from points(numbers(row), int(1000 * at), int(row["step"]))
            return
        # The number of seconds is the step, so that a run that was resumed goes on to the right.
        self._begun = at if self._begun is None else self._begun
        node = path.stem.removeprefix("system-")
        prefix = "system" if node == "0" else f"system/node-{node}"
        values = {f"{prefix}/{name}": value for name, value in numbers(row).items()}
        yield from points(values, int(1000 * at), max(0, int(at - self._begun)))

    def _tag(self, warning: str) -> None:
        run_id = self._store.run(self._run_id)
        with self._store.asking() as mlflow:
            mlflow.set_tag(run_id, WARNING_TAG, tag_value(warning))


class Feed:
    """A thread that keeps a run's MLflow run up with its files; training never waits for it."""

    def __init__(self, handle: RunHandle, folder: Path) -> None:
        self._handle, self._folder = handle, folder
        self._outbox = outbox(handle.uri, handle.experiment, folder)
        self._rows = Rows(self._outbox.store, handle.run_id, folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._behind = False

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._outbox.send(
            {"op": "tags", "run": self._handle.run_id, "tags": {key: tag_value(value) for key, value in tags.items()}}
        )

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Send the rest; what the store does not take now is left to the next command on the folder."""
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        if self._behind or self._thread.is_alive():
            self._outbox.keep({"op": "history", "run": self._handle.run_id, "path": str(self._folder)})

    def _run(self) -> None:
        last_look = False
        while not last_look:
            last_look = self._stop.wait(FLUSH_SECONDS)
            if self._outbox.store.waiting and not last_look:
                continue
            self._behind = not (self._outbox.flush(again=last_look) and self._push())

    def _push(self) -> bool:
        try:
            self._rows.push()
        except Refused:
            return True
        except Unreachable as silence:
            self._outbox.away(silence)
            return False
        return True


@contextmanager
def feeding(handle: RunHandle | None, folder: Path) -> Iterator[Feed | None]:
    """Send what the run in ``folder`` writes down to MLflow while the block runs; None without a handle."""
    if handle is None:
        yield None
        return
    feed = Feed(handle, folder)
    feed.start()
    try:
        yield feed
    finally:
        feed.close()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        row = load_json(line, nan=True)
    except ValueError:  # half a line of a process that was killed
        return None
    return row if isinstance(row, dict) and ("step" in row or "time" in row) else None

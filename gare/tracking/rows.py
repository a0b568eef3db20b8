"""Read a run's metrics from its files: its history, and the load of its machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gare.common.records import is_number, load_json
from gare.tracking.names import Point, numbers, points

HISTORY, SYSTEM = "history.jsonl", "system-*.jsonl"
ROWS_AT_ONCE = 500


class Tail:
    """The entries of a file that others append to or replace; a new file is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._position = 0

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """Yield complete new entries; a batch whose use raised an error is yielded again."""
        while True:
            rows, position = self._read()
            if rows:
                yield rows
            if position == self._position:
                return
            self._position = position

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        rows: list[dict[str, Any]] = []
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            return rows, self._position
        with stream:
            status = self._path.stat()
            if self._file != (status.st_dev, status.st_ino) or status.st_size < self._position:
                self._file, self._position = (status.st_dev, status.st_ino), 0
            stream.seek(self._position)
            position = self._position
            for line in stream:
                if not line.endswith(b"\n") or len(rows) == ROWS_AT_ONCE:
                    break
                position += len(line)
                row = _entry(line)
                if row is not None:
                    rows.append(row)
        return rows, position


class Rows:
    """The metrics in the files of a run's folder, under their tracker names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tails: dict[Path, Tail] = {}
        self._begun: float | None = None

    def batches(self) -> Iterator[tuple[list[Point], str | None]]:
        """Yield new points with the last warning among them; a batch whose use raised an error is yielded again."""
        for path in (self._folder / HISTORY, *sorted(self._folder.glob(SYSTEM))):
            for rows in self._tails.setdefault(path, Tail(path)).batches():
                warnings = [str(row["warning"]) for row in rows if "warning" in row]
                found: list[Point] = []
                for row in rows:
                    with suppress(ValueError, OverflowError):  # a name or a number that no tracker accepts
                        found.extend(self._points(row, path))
                yield found, warnings[-1] if warnings else None

    def stamp(self) -> list[tuple[str, int, int]]:
        """Return a value that changes when a file does."""
        files = [path for name in (HISTORY, SYSTEM) for path in sorted(self._folder.glob(name))]
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def _points(self, row: Mapping[str, Any], path: Path) -> Iterator[Point]:
        at = float(row.get("time", 0.0))
        if path.name == HISTORY:
            if "step" in row:
                yield from points(numbers(row), int(1000 * at), row["step"])
            return
        # The step is the number of seconds, so that a resumed run continues on the right.
        self._begun = at if self._begun is None else self._begun
        node = path.stem.removeprefix("system-")
        prefix = "system" if node == "0" else f"system/node-{node}"
        values = {f"{prefix}/{name}": value for name, value in numbers(row).items()}
        yield from points(values, int(1000 * at), max(0, int(at - self._begun)))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        row = load_json(line, nan=True)
    except ValueError:  # half a line from a killed process
        return None
    if not isinstance(row, dict):
        return None
    step, at = row.get("step", 0), row.get("time", 0.0)
    return row if isinstance(step, int) and is_number(at, below=1e15) else None

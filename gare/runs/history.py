"""The run's history: what was recorded when, a JSON line per entry."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gare.common.files import write_text, writing
from gare.common.records import load_json
from gare.common.storage import Folder

OnRow = Callable[[dict[str, Any]], None]
"""Called on rank 0 with every entry as it is recorded."""


class History:
    """The run's record of training, a JSON line per entry, kept to what the run has truly reached."""

    def __init__(self, path: Path, step: int, on_row: OnRow | None = None) -> None:
        self._path, self._on_row = path, on_row
        rows = read_history(path)
        kept = [row for row in rows if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        # A run killed between recording an epoch and reporting it would never report it.
        self._fresh: list[dict[str, Any]] = last_epoch(kept)

    def add(self, step: int, total: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Append one entry, with the time of day in seconds since 1970."""
        row = {"step": step, "total": total, "seconds": round(seconds, 3), "time": round(time.time(), 3), **values}
        self._fresh.append(row)
        with writing(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        if self._on_row is not None:
            self._on_row(row)

    def take(self) -> list[dict[str, Any]]:
        """The entries added since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


def last_epoch(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries since the last epoch but one ended."""
    ends = [number for number, row in enumerate(rows) if "epoch" in row]
    return rows[ends[-2] + 1 if len(ends) > 1 else 0 :]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Every whole entry of a history file; none where there is no file, StorageError where it cannot be read."""
    try:
        content = Folder.at(path.parent).read_bytes(path.name)
    except FileNotFoundError:
        return []
    rows = []
    for line in content.decode(errors="replace").splitlines():  # a killed writer may have left half a line
        try:
            row = load_json(line, nan=True)
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0:
            rows.append(row)
    return rows

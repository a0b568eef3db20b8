"""Storage that fails: the n-th read below a folder, or every write once there is no room."""

from __future__ import annotations

import builtins
import errno
import io
import os
from pathlib import Path

from pyarrow.fs import LocalFileSystem

from gare.common import storage

ERRORS = {
    "EIO": OSError(errno.EIO, "Input/output error"),
    "ESTALE": OSError(errno.ESTALE, "Stale file handle"),
    "S3": OSError("When reading information for key: AWS Error INTERNAL_FAILURE: retry"),
}
LOOKS = ("get_file_info", "open_input_stream", "open_input_file")


class Failing:
    """Calls that fail from one on, or that one alone."""

    def __init__(self, first: int, error: OSError, *, once: bool = False) -> None:
        self.calls, self.first, self.error, self.once = 0, first, error, once

    def look(self) -> None:
        """Count a call, and fail where it is its turn."""
        number, self.calls = self.calls, self.calls + 1
        if number == self.first or (number > self.first and not self.once):
            raise self.error


class FailingSystem(LocalFileSystem):
    """The file system of pyarrow here, whose looks at what is below a folder fail."""

    def __init__(self, failing: Failing, below: str) -> None:
        super().__init__()
        self._failing, self._below = failing, below

    def __getattribute__(self, name):
        call = super().__getattribute__(name)
        if name not in LOOKS:
            return call

        def counted(what, *arguments, **named):
            path = what if isinstance(what, str) else what.base_dir
            if path.startswith(self._below):
                self._failing.look()
            return call(what, *arguments, **named)

        return counted


def failing_reads(monkeypatch, first: int, error: OSError, *, once: bool = False, below: Path | str = "/") -> Failing:
    """Let reads of files below a folder fail, by pyarrow and Python: from the ``first`` one on, or that one alone."""
    failing, real = Failing(first, error, once=once), io.open
    system = FailingSystem(failing, str(below))

    def opened(file, mode="r", *arguments, **named):
        reads = not set(mode) & set("wax+")
        if reads and isinstance(file, str | os.PathLike) and os.fspath(file).startswith(str(below)):
            failing.look()
        return real(file, mode, *arguments, **named)

    monkeypatch.setattr(storage, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(storage, "_file_system", lambda address: (system, address))
    if below != "/":
        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(builtins, "open", opened)
    return failing


def full_from(monkeypatch, number: int) -> list[int]:
    """Let the disk be full from the n-th time on that something is to be on it; what comes back counts them."""
    true_sync, counted = os.fsync, [0]

    def sync(handle):
        counted[0] += 1
        if counted[0] > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true_sync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    return counted

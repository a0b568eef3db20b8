"""Temporary copies of remote files: gone after use, and after the death of the process that used them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from gare.common.locks import lock_if_free

PREFIX = "gare-fetched-"


@contextmanager
def scratch_file(suffix: str) -> Iterator[Path]:
    """Yield an empty file in the system's temporary folder (``TMPDIR``), removed at the end of the block.

    It is locked while in use: a process that is killed leaves it unlocked, and the next one that needs a scratch
    file removes it.
    """
    _remove_leftovers(tempfile.gettempdir())
    handle, path = _locked_file(suffix)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked_file(suffix: str) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=suffix)
        lock_if_free(handle)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


@cache
def _remove_leftovers(folder: str) -> None:
    """Remove the scratch files nobody holds, once per process."""
    for path in Path(folder).glob(f"{PREFIX}*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if lock_if_free(handle):
                    path.unlink()
            finally:
                os.close(handle)

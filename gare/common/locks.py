"""Locks on files: the system lets go of them when their process ends, however that happens.

A file system without locks lets everyone pass.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gare.common.errors import RunError
from gare.common.files import make_folder, os_errors_as_input, refuse_unwritable

LOCK_FILE = ".lock"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
POLL_SECONDS = 0.02


@contextmanager
def exclusive_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder, made if missing, while the block runs; RunError when another process holds it."""
    folder = make_folder(folder)
    refuse_unwritable(folder)
    with os_errors_as_input(folder):
        handle = take_free_lock(folder / LOCK_FILE)
    if handle is None:
        raise RunError(f"Another process is at work in {folder}; wait until it ends.")
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block runs, after the process that has it."""
    handle = take_lock(path)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_within(path: Path, seconds: float) -> Iterator[bool]:
    """Hold the lock of a file while the block runs; yields False if another process kept it for ``seconds``.

    Where the file cannot be written, everyone passes.
    """
    deadline, handle, mine = time.monotonic() + seconds, None, True
    with suppress(OSError):
        while (handle := take_free_lock(path)) is None and mine:
            mine = time.monotonic() < deadline
            time.sleep(POLL_SECONDS if mine else 0)
    try:
        yield mine
    finally:
        if handle is not None:
            os.close(handle)


def take_lock(path: Path, *, shared: bool = False) -> int:
    """Lock a file, made if missing, once its holder lets go; returns a descriptor that unlocks when closed.

    OSError if the file can neither be made nor read.
    """
    return _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def take_free_lock(path: Path) -> int | None:
    """Like ``take_lock``, but at once: None if another process has it."""
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def lock_if_free(handle: int) -> bool:
    """Lock an open file; returns False if another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def touch_lock(handle: int) -> None:
    """Note that the locked file was used now, if it can be written."""
    with suppress(OSError):
        os.utime(handle)


def _locked(path: Path, kind: int) -> int:
    handle = _open(path)
    try:
        fcntl.flock(handle, kind)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in NO_LOCKS:
            return handle
        os.close(handle)
        raise
    return handle


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in READ_ONLY or not path.is_file():
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another user's: it can be locked all the same

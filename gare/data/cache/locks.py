"""Locks of the system on small files of the cache: they end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def take(path: Path, *, shared: bool = False) -> int:
    """Lock a file, made where missing, once its holder lets go; returns a descriptor that unlocks when closed.

    A file system without locks lets everyone pass. OSError where the file can neither be made nor read.
    """
    return _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def take_free(path: Path) -> int | None:
    """Like ``take``, but at once: None where another has it."""
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block runs, after whoever has it."""
    handle = take(path)
    try:
        yield
    finally:
        os.close(handle)


def touch(handle: int) -> None:
    """Note that the locked file was used now, where that may be written."""
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

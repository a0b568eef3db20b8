"""Lock folders: local files by the system's locks, which end with their process; object stores by a renewed lease."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from gare.common.errors import InputError, RunError
from gare.common.files import make_folder, os_errors_as_input, refuse_unwritable
from gare.common.records import load_json
from gare.common.storage import Folder

LOCK_FILE = ".lock"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
POLL_SECONDS = 0.02


@contextmanager
def exclusive_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder, made if missing, while the block runs; RunError if another process holds it."""
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
    """Hold the lock of a file while the block runs, after waiting for its holder."""
    handle = take_lock(path)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_within(path: Path, seconds: float) -> Iterator[bool]:
    """Hold the lock of a file while the block runs; yields False if another process kept it for ``seconds``.

    If the file cannot be written, the block runs without a lock.
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
    """Wait for the lock of a file, made if missing, and return a descriptor that unlocks when closed.

    OSError if the file can neither be made nor read.
    """
    return _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def take_free_lock(path: Path) -> int | None:
    """Try ``take_lock`` without waiting; None if another process has the lock."""
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def lock_if_free(handle: int) -> bool:
    """Lock an open file; returns False if another process has it, or if its file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def touch_lock(handle: int) -> None:
    """Update the lock file's time of use, if it can be written."""
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
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another user's file, which can still be locked


BEAT_SECONDS = 5.0
DEAD_SECONDS = 20.0
SETTLE_SECONDS = 1.0


def held(folder: Folder) -> AbstractContextManager[None]:
    """Hold a folder, made if missing, while the block runs; RunError if another process holds it.

    A dead process holds nothing: the system releases a local folder, and elsewhere the lease runs out.
    """
    return exclusive_lock(folder.local) if folder.is_local else lease(folder)


@contextmanager
def lease(
    folder: Folder, *, beat_s: float = BEAT_SECONDS, dead_s: float = DEAD_SECONDS, settle_s: float = SETTLE_SECONDS
) -> Iterator[None]:
    """Hold ``folder`` while the block runs; RunError if another process holds it or takes it over during the block.

    The holder writes a new beat into the folder's lock file every few seconds. A process that finds a lock watches it:
    a lock that beats is respected, and one that does not change belongs to a dead process and is taken over. The object
    stores that pyarrow opens have no conditional writes, so if two processes start at the same moment, both write and
    the last one wins: each checks again before it begins, and the holder checks at every beat.
    ``beat_s``: seconds between beats; ``dead_s``: a holder without a beat for this long is dead; ``settle_s``: how long
    a new holder waits before it checks that it won.
    """
    _wait_for_the_dead(folder, beat_s, dead_s)
    mine = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    folder.write_json(LOCK_FILE, mine | {"beat": 0})
    time.sleep(settle_s)
    if _owner(folder) != mine["owner"]:
        raise _taken(folder)
    stop, lost = threading.Event(), threading.Event()
    thread = threading.Thread(target=_beat, args=(folder, mine, beat_s, stop, lost), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2 * dead_s)
        if not lost.is_set():
            with suppress(InputError):
                if _owner(folder) == mine["owner"]:
                    folder.remove(LOCK_FILE)
                else:
                    lost.set()
    if lost.is_set():
        raise _taken(folder)


def _wait_for_the_dead(folder: Folder, beat_s: float, dead_s: float) -> None:
    """Return once no living process holds the folder; RunError at the first new beat."""
    there = folder.read_text(LOCK_FILE)
    until = time.monotonic() + dead_s
    while there is not None and time.monotonic() < until:
        time.sleep(beat_s / 5)
        now = folder.read_text(LOCK_FILE)
        if now is not None and now != there:
            raise _taken(folder)
        there = now


def _beat(folder: Folder, mine: dict[str, Any], beat_s: float, stop: threading.Event, lost: threading.Event) -> None:
    beat = 0
    while not stop.wait(beat_s):
        beat += 1
        with suppress(InputError, FileNotFoundError):  # if the store fails for a moment, ask again at the next beat
            if _owner(folder) not in (mine["owner"], None):
                lost.set()
                return
            folder.write_json(LOCK_FILE, mine | {"beat": beat})


def _owner(folder: Folder) -> str | None:
    text = folder.read_text(LOCK_FILE)
    try:
        return None if text is None else str(load_json(text)["owner"])
    except (ValueError, KeyError, TypeError):
        return ""


def _taken(folder: Folder) -> RunError:
    return RunError(f"Another process is at work in {folder}; wait until it ends.")

"""Who is at work in a folder of an object store, where nothing lets go of a dead process's lock by itself.

The holder writes a new beat into the folder's lock file every few seconds. A process that finds a lock watches it: a
lock that beats is respected, one that does not change belongs to a dead process and is taken over. The object stores
that pyarrow opens have no conditional writes, so if two processes start at the same moment, both write and the last one
wins: each looks once more before it begins, and the holder looks at every beat.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from gare.common.errors import InputError, RunError
from gare.common.locks import exclusive_lock
from gare.common.records import load_json
from gare.common.storage import Folder

LOCK_FILE = ".lock"
BEAT_SECONDS = 5.0
DEAD_SECONDS = 20.0
SETTLE_SECONDS = 1.0


def held(folder: Folder) -> AbstractContextManager[None]:
    """Hold a folder, made where missing, while the block runs; RunError when another process holds it.

    A dead process holds nothing: the system lets go of a local folder, and elsewhere a lease runs out.
    """
    return exclusive_lock(folder.local) if folder.is_local else lease(folder)


@contextmanager
def lease(
    folder: Folder, *, beat_s: float = BEAT_SECONDS, dead_s: float = DEAD_SECONDS, settle_s: float = SETTLE_SECONDS
) -> Iterator[None]:
    """Hold ``folder`` while the block runs; RunError when another process holds it, or took it over meanwhile.

    ``beat_s``: seconds between signs of life; ``dead_s``: without one for so long, a holder is dead; ``settle_s``:
    how long a new holder waits before it looks whether it is the one.
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
    """Return once nobody alive holds the folder; RunError at the first sign of life."""
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
        with suppress(InputError, FileNotFoundError):  # a store that is away for a moment is asked again
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

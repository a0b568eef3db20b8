"""The copies on this node: source, size, time of last use and state of each, and the locks that protect them.

A copy is a folder named by its dataset's digest. ``dataset.json`` goes there last, when every file is checked: without
it the copy is unfinished. Beside the copies, ``.locks`` holds two lock files for each, which stay: ``.copy`` is held by
the process that copies or removes, ``.used`` is shared by those that read. Its time is when the copy was last used. The
system's locks end with the process that holds them, however it ends.
"""

from __future__ import annotations

import os
import shutil
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gare.common.errors import InputError
from gare.common.files import make_folder, write_json
from gare.common.locks import take_free_lock, touch_lock
from gare.common.records import is_number, load_json
from gare.schema import DATASET_FILE

NOTE_FILE = "copy.json"
LOCK_FOLDER = ".locks"
State = Literal["unused", "in use", "being copied", "unfinished"]


@dataclass(frozen=True)
class Copy:
    """One dataset's copy. ``bytes``: what it takes, or will once it is copied; ``there``: what is on disk now."""

    digest: str
    source: str
    bytes: int
    there: int
    last_used: float
    state: State


class Held:
    """A copy in use: nobody removes it until this is closed or forgotten, or its process ends."""

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.folder = folder
        self._release = weakref.finalize(self, _release, lock)

    def close(self) -> None:
        """Let go of it."""
        self._release()


def _release(lock: int | None) -> None:
    if lock is not None:
        touch_lock(lock)
        os.close(lock)


def copy_lock(root: Path, digest: str) -> Path:
    """The lock file for copying or removing a dataset; its folder is made if missing."""
    return make_folder(root / LOCK_FOLDER) / f"{digest}.copy"


def used_lock(root: Path, digest: str) -> Path:
    """The lock file for reading a dataset."""
    return make_folder(root / LOCK_FOLDER) / f"{digest}.used"


def room_lock(root: Path) -> Path:
    """The lock file for counting all copies and making room."""
    return make_folder(root / LOCK_FOLDER) / "room"


def entries(root: Path) -> list[Copy]:
    """The copies in a cache folder, the longest unused first."""
    if not root.is_dir():
        return []
    found = [_entry(root, path) for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda copy: (copy.last_used, copy.digest))


def _entry(root: Path, folder: Path) -> Copy:
    there, last_used, (source, size) = size_of(folder), _last_used(root, folder), _note(folder)
    state = _state(root, folder)
    return Copy(folder.name, source, max(there, size) if state == "being copied" else there, there, last_used, state)


def _state(root: Path, folder: Path) -> State:
    whole = (folder / DATASET_FILE).is_file()
    try:
        claimed = claim(root, folder.name)
    except (OSError, InputError):  # a folder that can only be read
        claimed = []
    if claimed is None:
        return "in use" if whole else "being copied"
    release(claimed)
    return "unused" if whole else "unfinished"


def _last_used(root: Path, folder: Path) -> float:
    for path in (root / LOCK_FOLDER / f"{folder.name}.used", folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, at any depth; those that go away meanwhile take none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def write_note(folder: Path, source: str, size: int) -> None:
    """Note what a copy is of and what it will take, before any of it is there."""
    write_json(folder / NOTE_FILE, {"source": source, "bytes": size})


def _note(folder: Path) -> tuple[str, int]:
    try:
        values = load_json((folder / NOTE_FILE).read_bytes())
        source, size = values["source"], values["bytes"]
        return (source, size) if isinstance(source, str) and is_number(size, below=1e18) and size >= 0 else ("", 0)
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def claim(root: Path, digest: str) -> list[int] | None:
    """Hold a copy alone, without waiting: descriptors for ``release``; None where anyone is at it."""
    copying = take_free_lock(copy_lock(root, digest))
    if copying is None:
        return None
    path = used_lock(root, digest)
    if not path.exists():  # never used; made now, it would look as if it had been
        return [copying]
    used = take_free_lock(path)
    if used is None:
        os.close(copying)
        return None
    return [used, copying]


def release(claimed: list[int]) -> None:
    """Let go of a copy that was held alone."""
    for handle in claimed:
        os.close(handle)


def remove(root: Path, digest: str) -> None:
    """Remove a copy that is held alone; cut short, it leaves an unfinished one."""
    folder = root / digest
    (folder / DATASET_FILE).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def evict(root: Path, digest: str) -> bool:
    """Remove a copy; False, and nothing happens, where anyone is at it."""
    claimed = claim(root, digest)
    if claimed is None:
        return False
    try:
        remove(root, digest)
    finally:
        release(claimed)
    return True

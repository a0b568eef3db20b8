"""List the copies on this node (source, size, last use, state) and manage the locks that protect them.

A copy is a folder named by its dataset's digest. ``dataset.json`` is written last, when every file is checked: without
it the copy is unfinished. Next to the copies, ``.locks`` holds two permanent lock files for each: the process that
copies or removes holds ``.copy``; readers share ``.used``, whose time is that of the copy's last use. The system's
locks end with the process that holds them, however it ends.
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
    """One dataset's copy. ``bytes``: its size, or its final size while it is copied; ``there``: its size now."""

    digest: str
    source: str
    bytes: int
    there: int
    last_used: float
    state: State


class Held:
    """A copy in use: it cannot be removed until this is closed or garbage-collected, or its process ends."""

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.folder = folder
        self._release = weakref.finalize(self, _release, lock)

    def close(self) -> None:
        """Release the copy."""
        self._release()


def _release(lock: int | None) -> None:
    if lock is not None:
        touch_lock(lock)
        os.close(lock)


def copy_lock(root: Path, digest: str) -> Path:
    """Return the lock file for copying or removing a dataset; its folder is made if missing."""
    return make_folder(root / LOCK_FOLDER) / f"{digest}.copy"


def used_lock(root: Path, digest: str) -> Path:
    """Return the lock file for reading a dataset."""
    return make_folder(root / LOCK_FOLDER) / f"{digest}.used"


def room_lock(root: Path) -> Path:
    """Return the lock file for counting all copies and making space."""
    return make_folder(root / LOCK_FOLDER) / "room"


def entries(root: Path) -> list[Copy]:
    """List the copies in a cache folder, the longest unused first."""
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
    except (OSError, InputError):  # a read-only folder
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
    """Return the bytes of the files in a folder, at any depth; files that disappear meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def write_note(folder: Path, source: str, size: int) -> None:
    """Note a copy's source and final size before any of it exists."""
    write_json(folder / NOTE_FILE, {"source": source, "bytes": size})


def _note(folder: Path) -> tuple[str, int]:
    try:
        values = load_json((folder / NOTE_FILE).read_bytes())
        source, size = values["source"], values["bytes"]
        return (source, size) if isinstance(source, str) and is_number(size, below=1e18) and size >= 0 else ("", 0)
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def claim(root: Path, digest: str) -> list[int] | None:
    """Hold a copy exclusively, without waiting: descriptors for ``release``; None if anyone uses it."""
    copying = take_free_lock(copy_lock(root, digest))
    if copying is None:
        return None
    path = used_lock(root, digest)
    if not path.exists():  # never used; creating it now would look like a use
        return [copying]
    used = take_free_lock(path)
    if used is None:
        os.close(copying)
        return None
    return [used, copying]


def release(claimed: list[int]) -> None:
    """Release a copy that was held exclusively."""
    for handle in claimed:
        os.close(handle)


def remove(root: Path, digest: str) -> None:
    """Remove a copy that is held exclusively; if interrupted, it leaves an unfinished one."""
    folder = root / digest
    (folder / DATASET_FILE).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def evict(root: Path, digest: str) -> bool:
    """Remove a copy; if anyone uses it, do nothing and return False."""
    claimed = claim(root, digest)
    if claimed is None:
        return False
    try:
        remove(root, digest)
    finally:
        release(claimed)
    return True

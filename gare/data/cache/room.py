"""The cache folder of a node, its limits, and space for new copies.

To make space, whole datasets are removed, the longest unused first, and never one in use.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gare.common.console import note
from gare.common.errors import InputError
from gare.common.files import make_folder
from gare.common.locks import waiting_lock
from gare.common.storage import Folder
from gare.data.cache.entries import Copy, claim, entries, release, remove, room_lock, size_of, write_note

if TYPE_CHECKING:
    from gare.config import RuntimeConfig


CACHE_VARIABLE = "GARE_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)
CHOOSE = f"set runtime.cache, or {CACHE_VARIABLE}, to a folder"


FREE_SHARE = 0.1
"""Share of the disk that is kept free if there is no limit; above 95 % Ray writes no objects to it."""

LEAST_FREE, LEAST_SHARE = 2**30, 0.05
"""Space that always stays free: a GiB, or this share of a small disk."""


def cache_folder() -> Path:
    """Return the default folder of copies: ``GARE_CACHE``, else ``gare`` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "gare"
    except RuntimeError:
        raise InputError(f"There is no home folder for copies of shards on {socket.gethostname()}; {CHOOSE}.") from None


@dataclass(frozen=True)
class Cache:
    """The settings of the copies, which can be sent between processes; each node finds its own folder.

    ``folder``: None for ``cache_folder()``; ``limit``: most bytes for all copies, None for as much as the disk has;
    ``mounted``: copy folders of the file system too, not only addresses; ``threads``: files copied at once.
    """

    folder: str | None = None
    limit: int | None = None
    mounted: bool = False
    threads: int = 8

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> Cache:
        """Return the settings of the copies in ``runtime``."""
        limit = None if runtime.cache_gb is None else int(runtime.cache_gb * 1e9)
        return cls(runtime.cache, limit, runtime.cache_mounted, runtime.cache_threads)

    @property
    def root(self) -> Path:
        """Return the folder that holds a folder per dataset, by its digest."""
        above = cache_folder() if self.folder is None else Path(self.folder).expanduser().absolute()
        return above / "shards"

    def wants(self, place: Folder) -> bool:
        """Return True if shards at this place are copied before they are read."""
        return self.mounted or not place.is_local


def size_text(size: float) -> str:
    """Format a number of bytes for messages."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"


@contextmanager
def usable(cache: Cache) -> Iterator[None]:
    """Turn an error in using the cache folder into an InputError."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        where = f"the cache folder {cache.root} on {socket.gethostname()}"
        if cause.errno in FULL:
            raise InputError(
                f"The disk of {where} is full, and the unfinished copy is removed: free space there, lower "
                f"runtime.cache_gb, or {CHOOSE} on a larger disk."
            ) from None
        why = cause.strerror or cause
        raise InputError(f"Cannot use {where} ({why}); {CHOOSE} there that you can write.") from None


@dataclass(frozen=True)
class Need:
    """Bytes that a copy is too large by: for the limit, for the disk's last reserve, and for the share kept free."""

    limit: int
    disk: int
    share: int


def make_room(cache: Cache, digest: str, wanted: int, source: str) -> None:
    """Reserve ``wanted`` bytes for the dataset ``digest``, removing others until it fits; its lock is held.

    Processes that make space on one node take turns, and count what others are about to copy. Raises InputError, with
    nothing removed, if it cannot fit.
    """
    root = cache.root
    folder = root / digest
    with waiting_lock(room_lock(root)), ExitStack() as stack:
        _refuse_larger(cache, wanted, source)
        others = [copy for copy in entries(root) if copy.digest != digest]
        need = _need(cache, others, wanted, size_of(folder))
        if max(need.limit, need.disk, need.share) > 0:
            free = []
            for copy in others:
                claimed = claim(root, copy.digest)
                if claimed is not None:
                    stack.callback(release, claimed)
                    free.append(copy)
            _refuse_lack(cache, need, free, others, wanted, source)
            _evict(root, free, need)
        write_note(make_folder(folder), source, wanted)


def _need(cache: Cache, others: list[Copy], wanted: int, there: int) -> Need:
    usage = disk(cache.root)
    coming = wanted - there + sum(copy.bytes - copy.there for copy in others)
    share = 0 if cache.limit is not None else int(usage.total * FREE_SHARE)
    return Need(
        limit=0 if cache.limit is None else sum(copy.bytes for copy in others) + wanted - cache.limit,
        disk=coming + min(LEAST_FREE, int(usage.total * LEAST_SHARE)) - usage.free,
        share=coming + share - usage.free,
    )


def _refuse_larger(cache: Cache, wanted: int, source: str) -> None:
    if cache.limit is not None and wanted > cache.limit:
        raise InputError(
            f"The shards of {source} take {size_text(wanted)}, and runtime.cache_gb lets all copies on a node take "
            f"{size_text(cache.limit)}: raise it, or split the dataset (gare shards split)."
        )


def _refuse_lack(cache: Cache, need: Need, free: list[Copy], others: list[Copy], wanted: int, source: str) -> None:
    """Raise InputError if removing every unused copy would not suffice."""
    gained, on_disk = sum(copy.bytes for copy in free), sum(copy.there for copy in free)
    held = sum(copy.bytes for copy in others) - gained
    where = f"{cache.root} on {socket.gethostname()}"
    if need.limit > gained:
        raise InputError(
            f"The shards of {source} take {size_text(wanted)}, but copies in use take {size_text(held)} of the "
            f"{size_text(cache.limit or 0)} that runtime.cache_gb allows in {where}: raise it, or wait until the runs "
            "that use them end (gare cache lists them)."
        )
    if need.disk > on_disk:
        raise InputError(
            f"The shards of {source} take {size_text(wanted)}, {size_text(need.disk - on_disk)} more than the disk of "
            f"{where} has room for with every unused copy removed: free space there, or {CHOOSE} on a larger disk."
        )


def _evict(root: Path, free: list[Copy], need: Need) -> None:
    limit, short = need.limit, max(need.disk, need.share)
    for copy in free:
        if limit <= 0 and short <= 0:
            return
        note(f"Removing the copy of {copy.source or copy.digest} ({size_text(copy.there)}) from {root} to make room.")
        remove(root, copy.digest)
        limit, short = limit - copy.bytes, short - copy.there


@dataclass(frozen=True)
class Disk:
    """Bytes of a disk: all, and those free to this user."""

    total: int
    free: int


def disk(path: Path) -> Disk:
    """Return the disk that a folder is on, or will be."""
    usage = shutil.disk_usage(next((above for above in (path, *path.parents) if above.exists()), path))
    return Disk(usage.total, usage.free)

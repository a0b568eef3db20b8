"""Room for a new copy: others go, whole datasets, the longest unused first, and never what anyone is at."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gare.common.console import note
from gare.common.errors import InputError
from gare.common.files import make_folder
from gare.data.cache import locks
from gare.data.cache.entries import Copy, claim, entries, release, remove, room_lock, size_of, write_note
from gare.data.cache.place import CHOOSE, Cache, size_text

FREE_SHARE = 0.1
"""Without a limit, unused copies go until this share of the disk is free; above 95 % Ray writes no objects to it."""
LEAST_FREE, LEAST_SHARE = 2**30, 0.05
"""What stays free in any case: a GiB, or this share of a small disk."""


@dataclass(frozen=True)
class Need:
    """Bytes that a copy is too large by: for the limit, for the disk's last reserve, and for the share kept free."""

    limit: int
    disk: int
    share: int


def make_room(cache: Cache, digest: str, wanted: int, source: str) -> None:
    """Reserve ``wanted`` bytes for the dataset ``digest``, others removed until it fits; its lock is held.

    Processes that make room on one node do it one after the other, and count what others are about to copy. Raises
    InputError, with nothing removed, where it cannot fit.
    """
    root = cache.root
    folder = root / digest
    with locks.locked(room_lock(root)), ExitStack() as stack:
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
    """InputError where not even removing every unused copy helps."""
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
    """The disk that a folder is on, or will be."""
    usage = shutil.disk_usage(next((above for above in (path, *path.parents) if above.exists()), path))
    return Disk(usage.total, usage.free)

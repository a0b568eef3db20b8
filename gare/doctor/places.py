"""Storage: whether shards can be read and results written, from here and from every node."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gare.common.errors import GareError
from gare.common.storage import Folder
from gare.data.cache import Cache, entries
from gare.data.cache.room import CHOOSE, disk, size_text
from gare.doctor.finding import Finding, fail, ok, warn

PROBE = ".gare-doctor-"
REACH = "check the path or address, its credentials on this machine, and that it is mounted"
SHARE = "mount the same file system at this path on every node, or give an address (s3://...)"


def check_readable(name: str, place: str) -> Finding:
    """Whether there is something at ``place`` that can be listed."""
    try:
        folder = Folder.at(place)
        if not folder.exists():
            return fail(name, f"there is nothing at {folder}", REACH)
        folder.sizes()
    except (GareError, OSError) as error:
        return fail(name, str(error), REACH)
    return ok(name, f"{folder} can be read")


def check_writable(name: str, place: str, *, seen: str | None = None) -> Finding:
    """Whether a file can be written at ``place``, read back and removed; nothing of it stays.

    ``seen``: name of a file that another machine has put there, which has to be visible from here too.
    """
    try:
        folder = Folder.at(place)
        if seen is not None and not folder.exists(seen):
            return fail(name, f"{folder} here is not the one of the machine that asks: its file is not there", SHARE)
        text = uuid.uuid4().hex
        with probe(folder, text) as file:
            if folder.read_text(file) != text:
                return fail(name, f"{folder} gives back something else than was written", "use other storage")
    except (GareError, OSError) as error:
        return fail(name, str(error), f"{REACH} with the right to write there and space left")
    return ok(name, f"{folder} can be written, read and cleared" + ("; it is the same place" if seen else ""))


def check_cache(cache: Cache) -> Finding:
    """Whether this machine can keep copies of shards, and as many as the settings allow."""
    root = cache.root
    found = check_writable("cache", str(root))
    if found.state != "ok":
        return fail("cache", found.says, f"{CHOOSE} that can be written, on a disk of this machine")
    copies, free = entries(root), disk(root).free
    taken = sum(copy.there for copy in copies)
    says = f"{len(copies)} copies of shards take {size_text(taken)} in {root}; its disk has {size_text(free)} free"
    if cache.limit is not None and cache.limit > taken + free:
        return warn("cache", f"{says}, less than runtime.cache_gb allows", f"lower it, or {CHOOSE} on a larger disk")
    return ok("cache", says)


@contextmanager
def probe(folder: Folder, text: str) -> Iterator[str]:
    """Put a small file into a folder, made where missing, for the block; yields its name."""
    file = f"{PROBE}{uuid.uuid4().hex}"
    missing = _missing(folder)
    try:
        with folder.writing(file) as path:
            path.write_text(text, encoding="utf-8")
        yield file
    finally:
        with suppress(GareError, OSError):
            folder.remove(file)
        for made in missing:
            with suppress(OSError):
                made.rmdir()  # only where it is empty


def _missing(folder: Folder) -> list[Path]:
    """The folders that writing into a local one will make, innermost first."""
    if not folder.is_local:
        return []
    return [path for path in (folder.local, *folder.local.parents) if not path.exists()]

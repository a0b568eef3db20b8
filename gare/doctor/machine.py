"""Check disk, shared memory, open files and the clock."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from gare.doctor.finding import Finding, fail, ok, warn

GIB = 2**30
LEAST_DISK, GOOD_DISK = 1 * GIB, 10 * GIB
MOST_FULL = 0.95
"""Ray's local_fs_capacity_threshold: on a fuller disk, Ray does not spill objects from memory."""
LEAST_FILES, GOOD_FILES = 1024, 4096
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the system's own path
SMALL_SKEW_S, LARGE_SKEW_S = 2.0, 60.0


def check_disk(
    path: Path | None = None, *, name: str = "disk", free: int | None = None, total: int | None = None
) -> Finding:
    """Check the free space at ``path``, or for temporary files (Ray's session, copies of remote videos)."""
    # Python skips a TMPDIR that is full; Ray and its workers may not.
    path = _existing(path or Path(os.environ.get("TMPDIR") or tempfile.gettempdir()))
    if free is None or total is None:
        usage = shutil.disk_usage(path)
        free, total = usage.free, usage.total
    says = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free at {path}"
    fix = "remove old files there, or set TMPDIR and RAY_TMPDIR to a larger disk"
    if name != "disk":
        fix = "remove old files there, or choose a larger disk"
    if free < LEAST_DISK:
        return fail(name, says, fix)
    if name == "disk" and total and 1 - free / total > MOST_FULL:
        return fail(name, f"{says}: above {MOST_FULL:.0%} Ray writes no objects to it", fix)
    return ok(name, says) if free >= GOOD_DISK else warn(name, says, fix)


def _existing(path: Path) -> Path:
    """Return the path, or the innermost folder above it that exists."""
    return next((above for above in (path, *path.parents) if above.exists()), path)


def check_shared_memory(
    needed: int, *, running: bool = False, size: int | None = None, path: Path = SHARED_MEMORY
) -> Finding:
    """Check that /dev/shm can hold Ray's object store of ``needed`` bytes.

    ``size``: available bytes, measured if None: the free ones, or all if the store is ``running`` in them.
    """
    if size is None and not path.is_dir():
        return ok("shared memory", "this system has no /dev/shm; Ray uses files")
    if size is None:
        usage = shutil.disk_usage(path)
        size = usage.total if running else usage.free
    says = f"{size / GIB:.2f} GiB at {path}, {needed / GIB:.2f} GiB wanted for Ray's object store"
    if size < needed:
        fix = "give it more (docker run --shm-size, a memory volume in Kubernetes), or set --object-store-memory lower"
        return warn("shared memory", f"{says}: Ray uses the disk instead, which is slow", fix)
    return ok("shared memory", says)


def check_open_files(limit: int | None = None) -> Finding:
    """Check that a process may open enough files and sockets."""
    if limit is None:
        if sys.platform == "win32":
            return ok("open files", "no such limit here")
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit
    fix = "ulimit -n 65536 before ray start (docker run --ulimit nofile=65536:65536)"
    if limit < LEAST_FILES:
        return fail("open files", f"{limit} at most", fix)
    if limit < GOOD_FILES:
        return warn("open files", f"{limit} at most, which is few for a cluster of more than some nodes", fix)
    return ok("open files", f"{limit} at most" if limit < sys.maxsize else "no limit")


def check_clock(skew: float, within: float) -> Finding:
    """Check a node's clock against this machine's: ``skew`` seconds ahead, known to ``within`` seconds."""
    surely = max(0.0, abs(skew) - within)
    says = f"{abs(skew):.2f} s {'ahead of' if skew > 0 else 'behind'} this machine (known to {within:.2f} s)"
    fix = "have it kept by NTP (chrony, or systemd-timesyncd)"
    if surely > LARGE_SKEW_S:
        return fail("clock", f"{says}: signed requests to storage are refused", fix)
    if surely > SMALL_SKEW_S:
        return warn("clock", f"{says}: times in logs and histories do not fit", fix)
    return ok("clock", says)

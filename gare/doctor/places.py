"""Check storage, the tracker and the token from here and from every node."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gare.common.addresses import sqlite_path
from gare.common.errors import GareError
from gare.common.redact import redact
from gare.common.storage import Folder
from gare.common.token import MODE, TOKEN, token_file
from gare.data.cache import Cache, entries
from gare.data.cache.room import CHOOSE, disk, size_text
from gare.doctor.finding import Finding, fail, ok, warn

PROBE = ".gare-doctor-"
REACH = "check the path or address, its credentials on this machine, and that it is mounted"
SHARE = "mount the same file system at this path on every node, or give an address (s3://...)"


def check_readable(name: str, place: str) -> Finding:
    """Check that ``place`` exists and can be listed."""
    try:
        folder = Folder.at(place)
        if not folder.exists():
            return fail(name, f"there is nothing at {folder}", REACH)
        folder.sizes()
    except (GareError, OSError) as error:
        return fail(name, str(error), REACH)
    return ok(name, f"{folder} can be read")


def check_writable(name: str, place: str, *, seen: str | None = None) -> Finding:
    """Check that a file can be written at ``place``, read back and removed; nothing of it stays.

    ``seen``: name of a file that another machine put there, which must be visible from here too.
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
    """Check that this machine can keep copies of shards, and as many as the settings allow."""
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
    """Put a small file into a folder, which is made if missing, during the block; yield its name."""
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
                made.rmdir()  # only if it is empty


def _missing(folder: Folder) -> list[Path]:
    """Return the folders that writing into a local one will make, innermost first."""
    if not folder.is_local:
        return []
    return [path for path in (folder.local, *folder.local.parents) if not path.exists()]


TRACKER_SECONDS = 5.0
NEW_TOKEN = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"  # noqa: S105 - a command


def check_tracker(uri: str | None, *, shared: bool = False) -> Finding:
    """Check the tracker. ``uri``: None for the SQLite file next to the runs; ``shared``: True on a cluster."""
    if uri is None:
        says = "no server named; a SQLite file in runtime.output"
        if shared:
            return warn("tracker", f"{says}, which is not safe on a network file system", "set MLFLOW_TRACKING_URI")
        return ok("tracker", says)
    if uri.startswith(("http://", "https://")):
        return _server(uri)
    database = sqlite_path(uri)
    if database is not None:
        found = check_writable("tracker", str(database.parent))
        if found.state == "ok" and shared:
            says = f"{uri} is for one machine: SQLite on a network file system is not safe"
            return warn("tracker", says, "set MLFLOW_TRACKING_URI to a server")
        return found
    return warn(
        "tracker", f"{redact(uri)} is neither http nor SQLite and was not tried", "see that every node reaches it"
    )


def _server(uri: str) -> Finding:
    fix = "start the server, or correct MLFLOW_TRACKING_URI (runtime.tracking_uri)"
    try:
        with urllib.request.urlopen(f"{_bare(uri)}/health", timeout=TRACKER_SECONDS) as answer:  # noqa: S310 - http(s)
            answer.read(64)
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return ok("tracker", f"{redact(uri)} answers, and asks for a password")
        return fail("tracker", f"{redact(uri)} answers with {error.code}", fix)
    except (OSError, ValueError) as error:
        return fail("tracker", f"{redact(uri)} does not answer: {getattr(error, 'reason', error)}", fix)
    return ok("tracker", f"{redact(uri)} answers")


def _bare(uri: str) -> str:
    """Return the address without user and password, which urllib would take for part of the host name."""
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def check_token(
    environment: Mapping[str, str] | None = None, file: Path | None = None, *, cluster: bool = False, fix: bool = False
) -> Finding:
    """Check that a token exists, is in use, and cannot be read by other users of the machine.

    ``cluster``: it is needed now; otherwise Ray makes one when it first starts. ``fix``: remove others' access to it.
    """
    environment = os.environ if environment is None else environment
    file = file or token_file()
    if environment.get(MODE, "token").lower() == "disabled":
        says = f"{MODE}=disabled: who reaches a port of Ray may run any code"
        if cluster:
            return fail("token", says, f"set {MODE}=token for ray start and for every command")
        return warn("token", says, f"unset {MODE} where Ray's ports can be reached from elsewhere")
    if environment.get(TOKEN, "").strip():
        return ok("token", f"from the variable {TOKEN}")
    if not file.is_file() or not file.read_text(encoding="utf-8", errors="replace").strip():
        if cluster:
            return fail("token", f"there is none at {file}", NEW_TOKEN)
        return ok("token", "none yet; Ray makes one when it first starts")
    return _private(file, fix=fix)


def _private(file: Path, *, fix: bool) -> Finding:
    mode = file.stat().st_mode & 0o777
    if not mode & 0o077:
        return ok("token", f"{file}, mode {mode:o}")
    if fix:
        file.chmod(0o600)
        return ok("token", f"{file} had mode {mode:o} and has 600 now")
    return fail(
        "token", f"{file} has mode {mode:o}: others here can read it", f"chmod 600 {file}, or gare doctor --fix"
    )

"""The tracker and the token."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from gare.common.redact import redact
from gare.common.sqlite import sqlite_path
from gare.common.token import MODE, TOKEN, token_file
from gare.doctor.finding import Finding, fail, ok, warn
from gare.doctor.places import check_writable

TRACKER_SECONDS = 5.0
NEW_TOKEN = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"  # noqa: S105 - a command


def check_tracker(uri: str | None, *, shared: bool = False) -> Finding:
    """Whether MLflow's store answers. ``uri``: None for the SQLite file beside the runs; ``shared``: on a cluster."""
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
    mend = "start the server, or correct MLFLOW_TRACKING_URI (runtime.tracking_uri)"
    try:
        with urllib.request.urlopen(f"{_bare(uri)}/health", timeout=TRACKER_SECONDS) as answer:  # noqa: S310 - http(s)
            answer.read(64)
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return ok("tracker", f"{redact(uri)} answers, and asks for a password")
        return fail("tracker", f"{redact(uri)} answers with {error.code}", mend)
    except (OSError, ValueError) as error:
        return fail("tracker", f"{redact(uri)} does not answer: {getattr(error, 'reason', error)}", mend)
    return ok("tracker", f"{redact(uri)} answers")


def _bare(uri: str) -> str:
    """The address without user and password, which urllib would take for a host's name."""
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def check_token(
    environment: Mapping[str, str] | None = None, file: Path | None = None, *, cluster: bool = False, fix: bool = False
) -> Finding:
    """Whether there is a token, in use, that nobody else on the machine can read.

    ``cluster``: it is needed now; without, Ray makes one when it first starts. ``fix``: take the file from others.
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

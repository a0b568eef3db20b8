"""Find the tracker's address, and tags for the code and the machine of this process."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from functools import lru_cache
from pathlib import Path

import gare
from gare.common.addresses import at_full_path, sqlite_path, sqlite_uri
from gare.common.errors import InputError
from gare.common.files import make_folder
from gare.config import RuntimeConfig

LIBRARIES = ("torch", "ray", "transformers", "mlflow", "numpy")
HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


def resolve_uri(runtime: RuntimeConfig) -> str:
    """Find the store: ``runtime.tracking_uri``, else MLFLOW_TRACKING_URI, else SQLite in the output folder.

    A relative SQLite path is made absolute, since workers run in other folders, and its folder is created. Raises
    InputError for an address that MLflow would read as something else.
    """
    name = "runtime.tracking_uri" if runtime.tracking_uri else "MLFLOW_TRACKING_URI"
    uri = runtime.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = at_full_path(uri or sqlite_uri(Path(runtime.output) / "mlflow.db"))
    if HOST_AND_PORT.fullmatch(uri):
        raise InputError(f"{name} is {uri}; add http://: http://{uri}.")
    path = sqlite_path(uri)
    if path is not None:
        if path.is_dir():
            raise InputError(f"{name} names the folder {path}; the address of a SQLite store ends with a file.")
        make_folder(path.parent)
    return uri


def environment() -> dict[str, str]:
    """Describe this process as tags: code, libraries, Python, platform."""
    tags = {"gare.version": gare.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            tags[f"version.{library}"] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags | _code() | _source()


def _source() -> dict[str, str]:
    """Return the tags that MLflow's page shows in their own columns: user, program and version."""
    tags = {"mlflow.source.name": f"gare {gare.__version__}", "mlflow.source.type": "LOCAL"}
    if commit := _code().get("git.commit"):
        tags["mlflow.source.git.commit"] = commit
    try:
        return tags | {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container's user without a name
        return tags


@lru_cache
def _code() -> dict[str, str]:
    """Return commit and dirty flag if this package is a folder of its own git checkout, not installed in another."""
    folder = Path(gare.__file__).resolve().parent

    def git(*arguments: str) -> str:
        # No optional locks: reading must not disturb a git command that runs at the same time.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") != "gare/":
            return {}
        return {"git.commit": git("rev-parse", "HEAD"), "git.dirty": json.dumps(bool(git("status", "--porcelain")))}
    except (OSError, subprocess.SubprocessError):
        return {}

"""Where MLflow is, and what this process runs on."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import gare
from gare.common.errors import RunError
from gare.common.files import make_folder
from gare.config import RuntimeConfig

LIBRARIES = ("torch", "ray", "transformers", "mlflow", "numpy")
SQLITE = "sqlite:///"


def resolve_uri(runtime: RuntimeConfig) -> str:
    """Find the store: ``runtime.tracking_uri``, else MLFLOW_TRACKING_URI, else SQLite in the output folder.

    A relative SQLite path is made absolute, since workers run in other folders, and its folder is created.
    """
    uri = runtime.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        uri = f"{SQLITE}{Path(runtime.output).resolve() / 'mlflow.db'}"
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE)).resolve()
        if path.is_dir():
            raise RunError(f"runtime.tracking_uri names the folder {path}; a sqlite:/// address ends with a file.")
        make_folder(path.parent)
        uri = f"{SQLITE}{path}"
    return uri


def environment() -> dict[str, str]:
    """Say what this process runs on, as tags: code, libraries, Python, platform."""
    tags = {"gare.version": gare.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            tags[f"version.{library}"] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags | _code() | _source()


def _source() -> dict[str, str]:
    """What MLflow's page shows in its own columns: who, with what, of which version."""
    tags = {"mlflow.source.name": f"gare {gare.__version__}", "mlflow.source.type": "LOCAL"}
    if commit := _code().get("git.commit"):
        tags["mlflow.source.git.commit"] = commit
    try:
        return tags | {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container's user without a name
        return tags


@lru_cache
def _code() -> dict[str, str]:
    """Commit and dirty flag where this package is a folder of its own git checkout, not installed inside another's."""
    folder = Path(gare.__file__).resolve().parent

    def git(*arguments: str) -> str:
        # No optional locks: looking must not disturb a git command running beside us.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") != "gare/":
            return {}
        return {"git.commit": git("rev-parse", "HEAD"), "git.dirty": json.dumps(bool(git("status", "--porcelain")))}
    except (OSError, subprocess.SubprocessError):
        return {}

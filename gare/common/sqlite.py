"""Addresses of SQLite files, as SQLAlchemy (and with it MLflow and Optuna) reads them: percent-encoded paths."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from gare.common.errors import InputError

SQLITE = "sqlite:///"


def sqlite_uri(path: Path) -> str:
    """Return the address of a SQLite file.

    A question mark would begin the address's options and a percent sign a code, so both are encoded.
    """
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """Return the path in an address of SQLite, relative to the working directory if it is so; None for another address.

    Raises InputError for an address of SQLite that names no file.
    """
    if not uri.startswith("sqlite:"):
        return None
    name, _, _ = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE) or name in ("", ":memory:"):
        raise InputError(f"{uri} names no file; write {SQLITE}FOLDER/mlflow.db, with a fourth slash for a full path.")
    return Path(unquote(name))


def at_full_path(uri: str, folder: Path | None = None) -> str:
    """Return an address of SQLite with its path made absolute, from ``folder`` or the working directory."""
    path = sqlite_path(uri)
    if path is None:
        return uri
    _, mark, options = uri.partition("?")
    return sqlite_uri(((folder or Path()) / path).resolve()) + mark + options

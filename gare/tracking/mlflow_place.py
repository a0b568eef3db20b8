"""Keep a SQLite store's artifacts next to the database, even after both were moved.

MLflow stores their place as an absolute path with each experiment, run and model, and has no call that changes it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gare.common.console import note, warn
from gare.common.files import make_folder

FOLDER = "mlflow-artifacts"
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifact_place(database: Path, experiment: str, location: str | None) -> str:
    """Return the place of an experiment's artifacts, after updating it if the database was moved.

    It is updated if gare's artifacts are gone from the old place, or are also at the new one, as after copying a
    project. Otherwise it stays, and a note says what to do.

    Args:
        database: The store's file.
        experiment: Name.
        location: The experiment's place in MLflow, a path or a file address; None for a new experiment.
    """
    beside = database.resolve().parent / FOLDER
    if location is None:
        return make_folder(beside).as_uri()
    before = _local(location)
    if before is None or before == beside or before.name != FOLDER:
        return location  # in an object store, in place, or chosen by the user
    try:
        with closing(sqlite3.connect(database, timeout=30)) as store, store:
            store.execute("BEGIN IMMEDIATE")
            if not _follows(store, before, beside):
                if beside.is_dir() or database.name == "mlflow.db":
                    note(
                        f"Artifacts of the MLflow experiment {experiment!r} go to {before}; move that folder to "
                        f"{beside} to keep them with the store."
                    )
                return location
            for table, column in PLACES:
                _rewrite(store, table, column, before, beside)
    except sqlite3.Error as error:
        warn(f"Artifacts of MLflow cannot follow from {before} to {beside}: {error}.")
        return location
    lost = "" if beside.is_dir() else "; move artifacts that are elsewhere to that folder, and MLflow finds them"
    note(f"The MLflow store was moved: its artifacts are those in {make_folder(beside)}, no longer in {before}{lost}.")
    return beside.as_uri()


def _local(location: str) -> Path | None:
    """Return the folder of an artifact location; None if it is not on a file system."""
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def _follows(store: sqlite3.Connection, before: Path, beside: Path) -> bool:
    """Return whether the artifacts are at the new place, or gone from the old one."""
    if not before.is_dir():
        return True
    runs = [_local(row[0]) for row in store.execute("SELECT artifact_uri FROM runs WHERE artifact_uri IS NOT NULL")]
    inside = [run.relative_to(before) for run in runs if run is not None and run.is_relative_to(before)]
    return beside.is_dir() and all((beside / run).exists() for run in inside if (before / run).exists())


def _rewrite(store: sqlite3.Connection, table: str, column: str, before: Path, beside: Path) -> None:
    """Replace one folder by another wherever a column's value begins with it."""
    if column not in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}:
        return
    for old, new in ((before.as_uri(), beside.as_uri()), (str(before), str(beside))):
        store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of PLACES
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, old + "/"),
        )

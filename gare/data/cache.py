"""Copies of remote shards on this node: training maps files into memory, which an object store cannot give."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import Any

from gare.common.console import note
from gare.common.errors import InputError
from gare.common.files import file_digest, make_folder, write_text
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, SHARD_FOLDER

CACHE_VARIABLE = "GARE_CACHE"


def cache_folder() -> Path:
    """Where copies lie: ``GARE_CACHE``, else ``gare`` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gare"


def local_copy(place: Folder) -> Path:
    """A local folder with the shards of a remote dataset, fetched where they are not there yet.

    It is named by the dataset's digest; every file is checked by its SHA-256 when it comes. Processes of one node
    wait for each other. Raises InputError for what is no dataset, and for a file that is not what the dataset says.
    """
    try:
        text = place.read_text(DATASET_FILE)
        dataset: dict[str, Any] = json.loads(text or "null")
        digest, shards = dataset["digest"], [(s["file"], s["bytes"], s["sha256"]) for s in dataset["shards"]]
    except (ValueError, KeyError, TypeError):
        text = digest = None
        shards = []
    if text is None or not isinstance(digest, str) or not digest.isalnum():
        raise InputError(f"{place} has no readable {DATASET_FILE}: gare prepare did not finish there.")
    folder = make_folder(cache_folder() / "shards" / digest)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [(name, sha256) for name, size, sha256 in shards if not _is_there(folder, name, size)]
        if missing:
            note(f"Copying {len(missing)} shards from {place} to {folder}.")
        for name, sha256 in missing:
            _fetch(place, folder, name, sha256)
        write_text(folder / DATASET_FILE, text)
    return folder


def _is_there(folder: Path, name: str, size: int) -> bool:
    if Path(name).name != name:
        raise InputError(f"The shard {name!r} has a name that leads elsewhere; the dataset is refused.")
    path = folder / SHARD_FOLDER / name
    return path.is_file() and path.stat().st_size == size


def _fetch(place: Folder, folder: Path, name: str, sha256: str) -> None:
    target = folder / SHARD_FOLDER / name
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        place.fetch(f"{SHARD_FOLDER}/{name}", temporary)
        if file_digest(temporary) != sha256:
            raise InputError(f"The shard {name} of {place} has another SHA-256 than {DATASET_FILE} says: refused.")
        temporary.replace(target)
    except FileNotFoundError:
        raise InputError(f"The shard {name} of {place} is missing; run gare prepare again.") from None
    finally:
        temporary.unlink(missing_ok=True)

"""Provide a copy of a dataset on this node: one process copies and checks it while the others wait."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare.common.console import meter, note
from gare.common.dataset_file import read_dataset_file
from gare.common.errors import InputError, StorageError
from gare.common.files import file_digest, fsync_directory, make_folder, write_text
from gare.common.locks import take_free_lock, take_lock, touch_lock
from gare.common.storage import Folder
from gare.data.cache.entries import Held, copy_lock, remove, used_lock
from gare.data.cache.room import FULL, Cache, make_room, usable
from gare.schema import DATASET_FILE, SHARD_FOLDER

PAUSES_S = (1.0, 5.0, 15.0, 30.0)
"""Pauses before a file is requested again: storage may fail for a moment."""

NOTE_BYTES = 4096
"""More bytes than a copy's note takes."""


@dataclass(frozen=True)
class Shard:
    """A file of a dataset: its name, size in bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str

    def has_size(self, folder: Path) -> bool:
        """Return True if a file of its name and size is in the copy."""
        path = folder / SHARD_FOLDER / self.name
        return path.is_file() and path.stat().st_size == self.bytes

    def is_same(self, folder: Path) -> bool:
        """Return True if the file in the copy is identical."""
        return self.has_size(folder) and file_digest(folder / SHARD_FOLDER / self.name) == self.sha256


def listed(place: Folder) -> tuple[dict[str, Any], list[Shard]]:
    """Read dataset file and list of files of a dataset; InputError if it is not one, or cannot be copied."""
    values = read_dataset_file(place)
    shards = [Shard(entry["file"], entry.get("bytes"), entry.get("sha256")) for entry in values["shards"]]
    known = all(isinstance(shard.bytes, int) and isinstance(shard.sha256, str) for shard in shards)
    if not known or not values["digest"].isalnum():
        raise InputError(f"{place.named(DATASET_FILE)} is damaged; run gare prepare again.")
    return values, shards


def same(shards: Sequence[Shard], folder: Path, threads: int) -> list[Shard]:
    """Return the files of which the copy has an identical one."""
    check: Callable[[Shard], bool] = lambda shard: shard.is_same(folder)  # noqa: E731 - typed
    with ThreadPoolExecutor(threads) as pool:
        return [shard for shard, good in zip(shards, pool.map(check, shards), strict=True) if good]


def damaged(folder: Path, threads: int = 2) -> list[str]:
    """List the files of a finished copy that differ from its dataset file."""
    try:
        _, shards = listed(Folder.at(folder))
    except StorageError:
        raise
    except InputError:
        return [DATASET_FILE]
    good = set(same(shards, folder, threads))
    return [shard.name for shard in shards if shard not in good]


def hold(place: Folder, cache: Cache) -> Held:
    """Return a local copy of the shards at ``place``, made if missing, which cannot be removed while it is held.

    Every file is checked by its SHA-256 as it is copied. Processes of one node wait for each other. Raises InputError
    if it is not a dataset, if a file does not match it, or if there is not enough space.
    """
    values, shards = listed(place)
    root, digest = cache.root, values["digest"]
    folder = root / digest
    with usable(cache):
        try:
            copying = _wait(copy_lock(root, digest), folder, place)
        except (OSError, InputError):
            if _is_whole(folder, values, shards):  # a folder that others filled and that is read-only here
                return Held(folder, None)
            raise
        try:
            if not _is_whole(folder, values, shards):
                _copy(place, cache, folder, shards)
            used = take_lock(used_lock(root, digest), shared=True)
        finally:
            os.close(copying)
        touch_lock(used)
        return Held(folder, used)


def _wait(lock: Path, folder: Path, place: Folder) -> int:
    handle = take_free_lock(lock)
    if handle is not None:
        return handle
    if not (folder / DATASET_FILE).is_file():
        note(f"Waiting for another process of this node, which copies the shards of {place}.")
    return take_lock(lock)


def _is_whole(folder: Path, values: Mapping[str, Any], shards: Sequence[Shard]) -> bool:
    """Return True if a finished copy of this exact dataset exists; compares the sizes of shards, not their contents."""
    if not (folder / DATASET_FILE).is_file():
        return False
    try:
        there, _ = listed(Folder.at(folder))
    except StorageError:
        raise
    except InputError:
        return False
    return there == values and all(shard.has_size(folder) for shard in shards)


def _copy(place: Folder, cache: Cache, folder: Path, shards: Sequence[Shard]) -> None:
    """Copy the files that are missing or differ; the dataset file goes last."""
    text = place.read_text(DATASET_FILE)
    if text is None:
        raise InputError(f"{place.named(DATASET_FILE)} is gone; run gare prepare again.")
    size = sum(shard.bytes for shard in shards) + len(text.encode()) + NOTE_BYTES
    try:
        _clear(folder, {shard.name for shard in shards})
        make_room(cache, folder.name, size, str(place))
        there = set(same(shards, folder, cache.threads))
        missing = [shard for shard in shards if shard not in there]
        make_folder(folder / SHARD_FOLDER)
        if missing:
            note(f"Copying {len(missing)} of {len(shards)} shards from {place} to {folder}.")
            _fetch_all(place, folder, missing, cache.threads)
        fsync_directory(folder / SHARD_FOLDER)
        write_text(folder / DATASET_FILE, text)
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL:
            remove(folder.parent, folder.name)
        raise


def _clear(folder: Path, names: set[str]) -> None:
    """Make the folder an unfinished copy, and remove files that do not belong to it."""
    (folder / DATASET_FILE).unlink(missing_ok=True)
    for below in (folder, folder / SHARD_FOLDER):
        for path in below.iterdir() if below.is_dir() else ():
            if path.is_file() and path.name not in names:
                path.unlink()


def _fetch_all(place: Folder, folder: Path, shards: Sequence[Shard], threads: int) -> None:
    """Copy files, several at once; after the first failure the others stop."""
    total = sum(shard.bytes for shard in shards)
    stop, lock, done = threading.Event(), threading.Lock(), 0
    with meter("copied MB", max(1, total // 10**6)) as progress, ThreadPoolExecutor(threads) as pool:

        def came(chunk: bytes) -> None:
            nonlocal done
            if stop.is_set():
                raise InputError("Another file could not be copied.")
            with lock:
                done += len(chunk)
                progress.update(done // 10**6)

        work = [pool.submit(_fetch, place, folder, shard, came, stop) for shard in shards]
        try:
            for future in as_completed(work):
                future.result()
        except BaseException:  # Ctrl-C too: copying threads must not outlive it
            stop.set()
            for future in work:
                future.cancel()
            raise


def _fetch(place: Folder, folder: Path, shard: Shard, came: Callable[[bytes], None], stop: threading.Event) -> None:
    """Copy one file, which gets its name only when it is complete, checked and on disk."""
    target = folder / SHARD_FOLDER / shard.name
    temporary = target.with_name(f".{shard.name}.{uuid.uuid4().hex}.tmp")
    try:
        if _fetched(place, shard, temporary, came, stop) != shard.sha256:
            raise InputError(
                f"The shard {shard.name} of {place} has another SHA-256 than {DATASET_FILE} says: refused."
            )
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except FileNotFoundError:
        raise InputError(f"The shard {shard.name} of {place} is missing; run gare prepare again.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _fetched(place: Folder, shard: Shard, temporary: Path, came: Callable[[bytes], None], stop: threading.Event) -> str:
    """Copy a file and return its SHA-256; requests that fail are repeated after pauses."""
    for pause in (*PAUSES_S, None):
        digest = hashlib.sha256()

        def take(chunk: bytes, digest: hashlib._Hash = digest) -> None:
            digest.update(chunk)
            came(chunk)

        try:
            place.fetch(f"{SHARD_FOLDER}/{shard.name}", temporary, on_chunk=take)
        except InputError as error:
            if pause is None or stop.is_set() or isinstance(error.__cause__, OSError):
                raise
            note(f"{error} Trying again in {pause:g} s.")
            stop.wait(pause)
        else:
            return digest.hexdigest()
    raise AssertionError("the last try returns or raises")

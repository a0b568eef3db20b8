"""Whether files of a copy are what its dataset says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gare.common.dataset_file import read_dataset_file
from gare.common.errors import InputError, StorageError
from gare.common.files import file_digest
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, SHARD_FOLDER


@dataclass(frozen=True)
class Shard:
    """A file of a dataset: its name, size in bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str

    def has_size(self, folder: Path) -> bool:
        """Whether a file of its name and size is in the copy."""
        path = folder / SHARD_FOLDER / self.name
        return path.is_file() and path.stat().st_size == self.bytes

    def is_same(self, folder: Path) -> bool:
        """Whether the file in the copy is it, to the bit."""
        return self.has_size(folder) and file_digest(folder / SHARD_FOLDER / self.name) == self.sha256


def listed(place: Folder) -> tuple[str, list[Shard]]:
    """Digest and files of a dataset; InputError for what is no dataset, or one that cannot be copied."""
    values = read_dataset_file(place)
    shards = [Shard(entry["file"], entry.get("bytes"), entry.get("sha256")) for entry in values["shards"]]
    known = all(isinstance(shard.bytes, int) and isinstance(shard.sha256, str) for shard in shards)
    if not known or not values["digest"].isalnum():
        raise InputError(f"{place.named(DATASET_FILE)} is damaged; run gare prepare again.")
    return values["digest"], shards


def same(shards: Sequence[Shard], folder: Path, threads: int) -> list[Shard]:
    """The files that are in the copy to the bit."""
    check: Callable[[Shard], bool] = lambda shard: shard.is_same(folder)  # noqa: E731 - typed
    with ThreadPoolExecutor(threads) as pool:
        return [shard for shard, good in zip(shards, pool.map(check, shards), strict=True) if good]


def damaged(folder: Path, threads: int = 2) -> list[str]:
    """Names of a finished copy's files that are not what its dataset says."""
    try:
        _, shards = listed(Folder.at(folder))
    except StorageError:
        raise
    except InputError:
        return [DATASET_FILE]
    good = set(same(shards, folder, threads))
    return [shard.name for shard in shards if shard not in good]

"""Where copies lie on a node, how much they may take, and what is copied at all."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gare.common.errors import InputError
from gare.common.storage import Folder

if TYPE_CHECKING:
    from gare.config import RuntimeConfig

CACHE_VARIABLE = "GARE_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)
CHOOSE = f"set runtime.cache, or {CACHE_VARIABLE}, to a folder"


def cache_folder() -> Path:
    """Where copies lie unless told otherwise: ``GARE_CACHE``, else ``gare`` in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "gare"
    except RuntimeError:
        raise InputError(f"There is no home folder for copies of shards on {socket.gethostname()}; {CHOOSE}.") from None


@dataclass(frozen=True)
class Cache:
    """The settings of the copies; the folder is found on the node that asks. Travels between processes.

    ``folder``: None for ``cache_folder()``; ``limit``: most bytes that all copies may take, None for what the disk has;
    ``mounted``: folders of the file system are copied too, not only addresses; ``threads``: files copied at once.
    """

    folder: str | None = None
    limit: int | None = None
    mounted: bool = False
    threads: int = 8

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> Cache:
        """The copies as the settings want them."""
        limit = None if runtime.cache_gb is None else int(runtime.cache_gb * 1e9)
        return cls(runtime.cache, limit, runtime.cache_mounted, runtime.cache_threads)

    @property
    def root(self) -> Path:
        """The folder that holds a folder per dataset, by its digest."""
        above = cache_folder() if self.folder is None else Path(self.folder).expanduser().absolute()
        return above / "shards"

    def wants(self, place: Folder) -> bool:
        """Whether shards at this place are copied before they are read."""
        return self.mounted or not place.is_local


def size_text(size: float) -> str:
    """A number of bytes for messages."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"


@contextmanager
def usable(cache: Cache) -> Iterator[None]:
    """Say in one sentence what keeps the cache folder from being used in the block."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        where = f"the cache folder {cache.root} on {socket.gethostname()}"
        if cause.errno in FULL:
            raise InputError(
                f"The disk of {where} is full, and the unfinished copy is removed: free space there, lower "
                f"runtime.cache_gb, or {CHOOSE} on a larger disk."
            ) from None
        why = cause.strerror or cause
        raise InputError(f"Cannot use {where} ({why}); {CHOOSE} there that you can write.") from None

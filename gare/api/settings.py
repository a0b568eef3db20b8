"""Handle settings and arguments of this package's functions."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from gare.common.errors import InputError
from gare.common.storage import Folder
from gare.config import Config
from gare.config.tree import Overrides, Source, load_config, parse_overrides

Place = str | os.PathLike[str] | Folder
"""A folder or file, or, where documented, an address such as ``s3://bucket/shards``."""


def resolve(config: Source, *overrides: Overrides, shards: Place | None = None, sweep: Place | None = None) -> Config:
    """Resolve the settings of a call; later overrides win, and ``shards`` sets ``runtime.shards``."""
    changes: dict[str, Any] = {}
    for one in overrides:
        changes |= parse_overrides(one)
    if shards is not None:
        changes["runtime.shards"] = str(shards)
    return load_config(config, changes, None if sweep is None else str(sweep))


def one_of(name: str, value: object, known: Collection[object]) -> None:
    """Raise InputError for a value that is not among the known ones."""
    if value not in known:
        raise InputError(f"{name} is {value!r}; it can be {', '.join(map(str, known))}.")


def between(name: str, value: float, least: float, most: float) -> None:
    """Raise InputError for anything but a number within the limits."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}; it has to be a number from {least:g} to {most:g}.")

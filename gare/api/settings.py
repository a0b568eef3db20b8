"""Handle settings and arguments of this package's functions."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gare.common.addresses import refuse_address
from gare.common.errors import InputError
from gare.common.redact import shown
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
        changes["runtime.shards"] = place_text("shards", shards)
    return load_config(config, changes, None if sweep is None else place_text("section", sweep))


def place_text(name: str, value: object) -> str:
    """Return a place as text, including the options of an address. Raises InputError for anything else and if empty."""
    if isinstance(value, Folder):
        return value.address
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is {_told(value)}; it has to be a path, as text or a pathlib.Path.")
    found = os.fspath(value)
    if not isinstance(found, str) or not found.strip():
        raise InputError(f"{name} is {found!r}; it has to name a file or folder.")
    return found


def local_path(name: str, value: object) -> Path:
    """Return a place on this machine as a path. Raises InputError as ``place_text`` does, and for an address."""
    found = Path(place_text(name, value))
    refuse_address(name, found)
    return found


def check_text(name: str, value: object) -> None:
    """Raise InputError for anything but text."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {_told(value)}; it has to be text.")


def check_texts(name: str, value: object, *, by_name: bool = False) -> None:
    """Raise InputError for anything but a collection of texts or, if ``by_name``, a mapping of texts."""
    several = isinstance(value, Mapping) if by_name else isinstance(value, Collection) and not isinstance(value, str)
    texts = [*value, *(value.values() if isinstance(value, Mapping) else ())] if isinstance(value, Collection) else []
    if not several or any(not isinstance(text, str) for text in texts):
        wanted = "texts by name, such as {'colour': 'red'}" if by_name else "a list of texts"
        raise InputError(f"{name} is {_told(value)}; it has to be {wanted}.")


def one_of(name: str, value: object, known: Collection[object]) -> None:
    """Raise InputError for a value that is not among the known ones."""
    if value not in known:
        raise InputError(f"{name} is {_told(value)}; it can be {', '.join(map(str, known))}.")


def between(name: str, value: float, least: float, most: float) -> None:
    """Raise InputError for anything but a number within the limits."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{name} is {_told(value)}; it has to be a number from {least:g} to {most:g}.")


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number within the limits, also of NumPy, as an int. Raises InputError for anything else."""
    found = None if isinstance(value, bool) or not hasattr(value, "__index__") else operator.index(value)
    if found is None or found < least or (most is not None and found > most):
        limits = f"of {least} or more" if most is None else f"from {least} to {most:,}"
        raise InputError(f"{name} is {_told(value)}; it has to be a whole number {limits}.")
    return found


def _told(value: object) -> str:
    """Return a value for an error message: plain values as text, others by their type."""
    plain = value is None or isinstance(value, str | bytes | int | float)
    return shown(value) if plain else f"of type {type(value).__name__}"

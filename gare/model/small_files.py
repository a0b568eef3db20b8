"""Small files of a folder that others made: read up to a limit, so that none can fill the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from gare.common.errors import InputError

MAX_BYTES = 2**20
MAX_SHOWN = 100


def read_small(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A file's bytes; InputError when it cannot be read or has more than ``limit``."""
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    if len(content) > limit:
        raise InputError(f"{path} has more than {limit // 2**20} MiB, which no file of its kind has.")
    return content


def read_object(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file; InputError when it is anything else."""
    return parse_object(read_small(path, limit), str(path))


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object in some bytes of ``where``; InputError for anything else, a repeated key or a number like NaN."""
    try:
        value = json.loads(content, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise InputError(f"{where} is nested too deeply to be read.") from None
    except ValueError as error:
        raise InputError(f"{where} cannot be read as JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} holds no JSON object.")
    return value


def plain(name: str) -> str:
    """A name from a file as it can stand in a sentence: short, and its control characters spelled."""
    return (name if name.isprintable() else ascii(name))[:MAX_SHOWN]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key in it is there twice")
    return values


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")

"""Read records that others made or damaged: JSON within bounds, checked against its expected type."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gare.common.errors import InputError
from gare.common.redact import shown

MAX_BYTES = 2**20
LENIENT = ConfigDict(extra="allow", strict=True)
"""Settings for records in which others may have written more."""
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Settings for ``__pydantic_config__`` of a dataclass: no other keys, no conversions, finite numbers."""

T = TypeVar("T")

_adapter: Any = cache(TypeAdapter)


def load_json(content: str | bytes, *, nan: bool = False) -> Any:
    r"""Return the value of a JSON text; ValueError with a short reason for anything else.

    It refuses repeated keys, nesting that Python cannot follow, halves of characters (``\ud800``) and, unless ``nan``,
    numbers like NaN, which are not JSON.
    """
    text = content.decode() if isinstance(content, bytes) else content
    try:
        if nan:
            value = json.loads(text, object_pairs_hook=_once)
        else:
            value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds text that is not valid Unicode") from None
    return value


def checked(kind: type[T], value: Any) -> T:
    """Convert a plain JSON value to the dataclass or model ``kind``; ValueError with the first thing wrong."""
    adapter: TypeAdapter[T] = _adapter(kind)
    try:
        return adapter.validate_json(json.dumps(value))  # in Python's mode a mapping is not accepted as a dataclass
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place, message = shown(".".join(map(str, first["loc"]))), first["msg"].removeprefix("Value error, ")
        if first["type"] in ("missing", "missing_argument"):
            raise ValueError(f"it has no {place}") from None
        raise ValueError(f"{place} is {shown(first['input'])}: {message[0].lower()}{message[1:]}") from None


def is_number(value: Any, *, below: float = 1e6) -> bool:
    """Return whether a JSON value is a number, finite and closer to zero than ``below``."""
    return type(value) in (int, float) and abs(value) < below


def read_small(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a file's bytes; InputError if it cannot be read or has more than ``limit``."""
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    if len(content) > limit:
        raise InputError(f"{path} has more than {limit // 2**20} MiB, which no file of its kind has.")
    return content


def read_object(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file; InputError if it is anything else."""
    return parse_object(read_small(path, limit), str(path))


def parse_object(content: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a text from ``where``; InputError for anything that ``load_json`` refuses too."""
    try:
        value = load_json(content)
    except ValueError as error:
        raise InputError(f"{where} cannot be read as JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} holds no JSON object.")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key in it is there twice")
    return values


def _finite(word: str) -> float:
    number = float(word)
    return number if math.isfinite(number) else _refuse(word)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word:.40} is not a JSON number")

"""One value of a source, as text, JSON or Parquet have it, as what a manifest needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gare.common.errors import InputError
from gare.common.files import canonical_json

SHOWN = 60


def text(value: Any, name: str, where: str) -> str:
    """A string without spaces around it, empty for none; a whole number is one too."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _refused(value, f"{name} that is text", where)


def captions(value: Any, where: str) -> list[str]:
    """Captions of a list of strings, or of one string, which may hold a JSON list; empty ones are left out."""
    if isinstance(value, str):
        value = _listed(value.strip())
    if value is None:
        return []
    if not isinstance(value, list) or not all(caption is None or isinstance(caption, str) for caption in value):
        raise _refused(value, "list of captions", where)
    return [caption.strip() for caption in value if caption and caption.strip()]


def _listed(cell: str) -> list[str]:
    if cell.startswith("["):
        try:
            listed = json.loads(cell)
        except (ValueError, RecursionError):
            listed = None  # a caption may begin with a bracket: "[music] ..."
        if isinstance(listed, list) and all(isinstance(caption, str) for caption in listed):
            return listed
    return [cell]


def seconds(value: Any, where: str) -> float | None:
    """A finite number, also one written as text; None for none."""
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _refused(value, "number of seconds", where)
    return number


def attributes(value: Any, where: str) -> dict[str, str]:
    """Name -> text of a mapping, or of pairs as Parquet has maps; empty for none."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        value = list(value.items())
    try:
        return {text(name, "name", where): attribute(content) for name, content in value}
    except (TypeError, ValueError):
        raise _refused(value, "mapping of attributes", where) from None


def attribute(value: Any) -> str:
    """Any plain value as text: a string as it is, nothing as an empty one, all else as JSON has it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return canonical_json(value)
    except (TypeError, ValueError):
        return str(value)  # a date, a number JSON does not know


def _refused(value: Any, wanted: str, where: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return InputError(f"{where}: {shown} is no {wanted}.")

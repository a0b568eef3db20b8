"""One value of a source, as text, JSON or Parquet have it, as what a manifest needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from gare.common.errors import InputError
from gare.common.files import canonical_json
from gare.common.redact import shown
from pipelines.manifest.sources.lists import NotAListError, listed

NO_CAPTION: Final = frozenset({"nan", "NaN", "None", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>"})
"""What pandas, numpy, spreadsheets and databases write for a caption that is not there."""


def text(value: Any, name: str, where: str) -> str:
    """A string as it is, empty for none; a whole number is one too."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _refused(value, f"{name} that is text", where)


def captions(value: Any, where: str) -> tuple[list[str], int]:
    """Captions of a list of strings, or of one string, which may hold a list; and how many were dropped.

    Dropped are those of NO_CAPTION and, in a list, empty ones and nulls. A cell that is empty has none to drop.
    """
    if value is None or value == "":
        return [], 0
    if isinstance(value, str):
        value = _of_cell(value.strip(), where)
    elif isinstance(value, float) and math.isnan(value):
        value = [None]
    if not isinstance(value, list) or not all(caption is None or _is_text(caption) for caption in value):
        raise _refused(value, "list of captions", where)
    given = [caption.strip() if isinstance(caption, str) else "" for caption in value]
    kept = [caption for caption in given if caption and caption not in NO_CAPTION]
    return kept, len(given) - len(kept)


def _is_text(caption: Any) -> bool:
    return isinstance(caption, str) or (isinstance(caption, float) and math.isnan(caption))


def _of_cell(cell: str, where: str) -> list[str | None]:
    try:
        several = listed(cell)
    except NotAListError as error:
        raise InputError(
            f"{where}: {shown(cell)} looks like a list of captions, but {error}; write it as a JSON list of texts."
        ) from None
    return ([cell] if cell else []) if several is None else several


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
    return InputError(f"{where}: {shown(value)} is no {wanted}.")

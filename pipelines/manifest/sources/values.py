"""Convert single values of a source for a manifest, and read cells that hold lists of captions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from gare.common.errors import InputError
from gare.common.files import canonical_json
from gare.common.records import load_json
from gare.common.redact import shown

SHOWN: Final = 20
CLOSING: Final = {"[": "]", "(": ")", "{": "}"}

_TEXT: Final = r"""[bBuU]?(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")"""
_NONE: Final = r"(?:None|nan|NaN|null|NULL|NA|<NA>)(?=[\s,\])}])"
_SCALAR: Final = r"(?:np|numpy)\.str_\(\s*"
_ELEMENT: Final = re.compile(rf"(?P<none>{_NONE})|(?P<text>{_TEXT})|{_SCALAR}(?P<scalar>{_TEXT})\s*\)", re.DOTALL)
# What follows the bracket of a list of texts, but hardly ever the bracket of "[music] a man sings".
_BEGUN: Final = rf"[\[({{\s]*(?:[bBuU]?['\"]|{_SCALAR}|{_NONE}\s*(?:[,\])}}'\"]|{_NONE})|\])"
_OPENING: Final = re.compile(rf"(?P<array>(?:np\.)?array\(\s*)?(?P<bracket>[\[({{])(?={_BEGUN})")
_ARRAY_END: Final = re.compile(r"\s*(?:,\s*dtype=[^)]*)?\)")
_SPACE: Final = re.compile(r"\s*")
_GAP: Final = re.compile(r"\s*,?\s*")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_PLAIN: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""} | {c: c for c in "'\"\\/"}


class NotAListError(Exception):
    """A cell begins like a list of texts but is not one; the message gives the reason, as the rest of a sentence."""


def listed(cell: str) -> list[str | None] | None:
    """Return the texts of a cell that holds a list, with None for missing ones; return None if it is plain text.

    JSON, Python lists, tuples and sets, and numpy arrays are read as lists. ``[music] a man sings`` and ``[music]``
    are plain text. Raises NotAListError for a list of anything but texts, and for one that is cut off or shortened.
    """
    if cell[:1] in ("[", "{"):
        try:
            return _texts(load_json(cell, nan=True))
        except ValueError:
            pass  # not JSON
    opening = _OPENING.match(cell)
    if opening is None:
        return None
    try:
        elements, end = _elements(cell, opening.end(), CLOSING[opening["bracket"]])
    except NotAListError:
        if opening["bracket"] == "(":  # plain text in parentheses
            return None
        raise
    rest = _ARRAY_END.fullmatch(cell, end) if opening["array"] else not cell[end:]
    is_said = opening["bracket"] == "(" and len(elements) == 1 and not cell.endswith(",)")  # ("text") is not a tuple
    return None if not rest or is_said else elements


def _texts(value: Any) -> list[str | None]:
    if not isinstance(value, list):
        raise NotAListError("it is an object, and not a list of texts")
    if not all(v is None or isinstance(v, str) or (isinstance(v, float) and math.isnan(v)) for v in value):
        raise NotAListError("it holds other things than texts")
    return [v if isinstance(v, str) else None for v in value]


def _elements(cell: str, at: int, closing: str) -> tuple[list[str | None], int]:
    """Return the elements after the opening bracket, and the position where the list ends."""
    elements: list[str | None] = []
    gaps = set()
    at = _behind(_SPACE, cell, at)
    while not cell.startswith(closing, at):
        element = _ELEMENT.match(cell, at)
        if element is None or element[0][:1] in ("b", "B"):
            raise NotAListError(_what_is_wrong(cell, at))
        elements.append(None if element["none"] else _unescaped(element["text"] or element["scalar"]))
        at = _behind(_GAP, cell, element.end())
        if not cell.startswith(closing, at):
            gap = cell[element.end() : at]
            gaps.add("," if "," in gap else gap and " ")
    if len(gaps) > 1 or "" in gaps:
        raise NotAListError("its texts are not all separated by commas, or all by spaces")
    return elements, at + 1


def _behind(pattern: re.Pattern[str], cell: str, at: int) -> int:
    found = pattern.match(cell, at)
    return found.end() if found else at


def _what_is_wrong(cell: str, at: int) -> str:
    rest = cell[at : at + SHOWN]
    if cell.startswith("...", at):
        return "numpy left out its middle when it was written ('...')"
    if re.match(r"[bB]['\"]", rest):
        return "it holds bytes"
    if cell.startswith(":", at):
        return "it is an object, and not a list of texts"
    if not rest or (rest[0] in "'\"" and _ELEMENT.match(cell, at) is None):
        return "it does not end"
    if rest[0] in "[({" or re.match(r"[-+.\d]|array|np\.|True|False", rest):
        return "it holds other things than texts"
    return f"{rest!r} is not a text in quotes"


def _unescaped(literal: str) -> str:
    body = literal[literal.index(literal[-1]) + 1 : -1]
    if "\\" not in body:
        return body
    try:  # two surrogates make one character, as in JSON
        return _ESCAPE.sub(_unescape, body).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise NotAListError("a text in it is not valid Unicode: it has half a character") from None


def _unescape(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is None:
        return _PLAIN.get(escape[4], escape[0])
    try:
        return chr(int(code, 16))
    except ValueError:
        raise NotAListError(f"{escape[0]} is not the code of a character") from None


NO_CAPTION: Final = frozenset({"nan", "NaN", "None", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>"})
"""Markers that pandas, numpy, spreadsheets and databases write for a missing caption."""


def text(value: Any, name: str, where: str) -> str:
    """Return a string unchanged, a whole number as text, and an empty string for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _refused(value, f"{name} that is text", where)


def captions(value: Any, where: str) -> tuple[list[str], int]:
    """Return the captions of a list of strings, or of one string that may hold a list, and how many were dropped.

    Markers of NO_CAPTION are dropped, as are empty captions and nulls in a list. An empty cell drops none.
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
    """Return a finite number, which may be written as text, or None if there is none."""
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
    """Return name -> text of a mapping, or of pairs as Parquet stores maps; empty for None."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        value = list(value.items())
    try:
        return {text(name, "name", where): attribute(content) for name, content in value}
    except (TypeError, ValueError):
        raise _refused(value, "mapping of attributes", where) from None


def attribute(value: Any) -> str:
    """Return a plain value as text: a string unchanged, None as an empty string, anything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return canonical_json(value)
    except (TypeError, ValueError):
        return str(value)  # a date, or a number that JSON cannot represent


def _refused(value: Any, wanted: str, where: str) -> InputError:
    return InputError(f"{where}: {shown(value)} is not a {wanted}.")

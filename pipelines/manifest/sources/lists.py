"""Lists of texts in one cell, as JSON, Python, pandas and numpy write them."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from gare.common.records import load_json

SHOWN: Final = 20
CLOSING: Final = {"[": "]", "(": ")", "{": "}"}

_TEXT: Final = r"""[bBuU]?(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")"""
_NONE: Final = r"(?:None|nan|NaN|null|NULL|NA|<NA>)(?=[\s,\])}])"
_SCALAR: Final = r"(?:np|numpy)\.str_\(\s*"
_ELEMENT: Final = re.compile(rf"(?P<none>{_NONE})|(?P<text>{_TEXT})|{_SCALAR}(?P<scalar>{_TEXT})\s*\)", re.DOTALL)
# What follows the bracket of a list of texts, and hardly ever that of "[music] a man sings".
_BEGUN: Final = rf"[\[({{\s]*(?:[bBuU]?['\"]|{_SCALAR}|{_NONE}\s*(?:[,\])}}'\"]|{_NONE})|\])"
_OPENING: Final = re.compile(rf"(?P<array>(?:np\.)?array\(\s*)?(?P<bracket>[\[({{])(?={_BEGUN})")
_ARRAY_END: Final = re.compile(r"\s*(?:,\s*dtype=[^)]*)?\)")
_SPACE: Final = re.compile(r"\s*")
_GAP: Final = re.compile(r"\s*,?\s*")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_PLAIN: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""} | {c: c for c in "'\"\\/"}


class NotAListError(Exception):
    """A cell that begins as a list of texts and is none; the message says why, as the rest of a sentence."""


def listed(cell: str) -> list[str | None] | None:
    """The texts of a cell that holds a list of them, None for one that stands for nothing; None for any other text.

    Read are JSON, Python's lists, tuples and sets, and numpy's arrays. ``[music] a man sings`` and ``[music]`` are
    text. Raises NotAListError for a list of anything but texts, and for one that is cut off or shortened.
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
        if opening["bracket"] == "(":  # brackets around what somebody says
            return None
        raise
    rest = _ARRAY_END.fullmatch(cell, end) if opening["array"] else not cell[end:]
    is_said = opening["bracket"] == "(" and len(elements) == 1 and not cell.endswith(",)")  # ("text") is no tuple
    return None if not rest or is_said else elements


def _texts(value: Any) -> list[str | None]:
    if not isinstance(value, list):
        raise NotAListError("it is an object, and not a list of texts")
    if not all(v is None or isinstance(v, str) or (isinstance(v, float) and math.isnan(v)) for v in value):
        raise NotAListError("it holds other things than texts")
    return [v if isinstance(v, str) else None for v in value]


def _elements(cell: str, at: int, closing: str) -> tuple[list[str | None], int]:
    """The elements from behind the bracket, and where the list ends."""
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
    return f"what stands at {rest!r} is no text in quotes"


def _unescaped(literal: str) -> str:
    body = literal[literal.index(literal[-1]) + 1 : -1]
    if "\\" not in body:
        return body
    try:  # two halves make a character, as in JSON
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
        raise NotAListError(f"{escape[0]} stands for no character") from None

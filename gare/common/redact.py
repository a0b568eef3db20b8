"""Clean foreign text for our messages: secrets masked, control characters escaped, long values shortened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from reprlib import Repr
from typing import Any

LONGEST_MESSAGE = 2000
MAX_SHOWN = 100
MAX_NAMES = 12

_USER = re.compile(r"""(?<=://)(?:[^\s/@:]*:[^\s<>]*|[^/\s"'<>]*)@""")  # a password may hold slashes and quotes
_PARAMETER = re.compile(
    r"""(?<=[?&;#])([\w.-]*(?:access|account|auth|credential|key|passw|pwd|sas|secret|session|sig|token)[\w.-]*)"""
    r"""=[^&;\s"'<>]+""",
    re.IGNORECASE,
)
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Characters that take effect instead of showing: controls but tab and newline, direction changes, non-characters."""


def redact(text: str) -> str:
    """Replace user names, passwords and secret parameters of every address in a text by ``***``."""
    return _PARAMETER.sub(r"\1=***", _USER.sub("***@", text))


def printable(text: str) -> str:
    """Escape the characters that a terminal or a page would obey; leave the rest unchanged."""
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def printable_json(text: str) -> str:
    """Escape in JSON's own way what a terminal would obey, and halves of surrogate pairs."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def sentence(text: str) -> str:
    """Clean a whole message: no secrets or control characters, and no middle if it is long."""
    text = printable(redact(text))
    if len(text) <= LONGEST_MESSAGE:
        return text
    half = LONGEST_MESSAGE // 2 - 20
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def shown(value: Any) -> str:
    """Format a value from a file or a setting like Python, in at most about 100 characters."""
    return _cut(_SHORT.repr(value))


def names(values: Iterable[Any], most: int = MAX_NAMES) -> str:
    """Join the first few names from a file, such as columns, in quotes if they would be unclear without."""
    first = list(islice(values, most + 1))
    texts = [name if _is_plain(name) else shown(name) for name in first[:most]]
    return ", ".join([*map(_cut, texts), *(["..."] if len(first) > most else [])])


def first_line(error: BaseException) -> str:
    """Shorten another software's error message to one line of at most about 300 characters."""
    lines = (str(error)[: 100 * MAX_SHOWN].strip() or type(error).__name__).splitlines()
    line = " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
    return _cut(redact(line).rstrip("."), 3 * MAX_SHOWN)


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and name == name.strip() and name.isprintable() and redact(name) == name


def _cut(text: str, most: int = MAX_SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


class _Short(Repr):
    """Python's notation of a few of a value's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother = 3, MAX_SHOWN
        self.maxstring = self.maxlong = MAX_SHOWN

    def repr_str(self, x: str, level: int) -> str:
        del level
        return repr(_cut(redact(x[: 10 * MAX_SHOWN])))  # secrets first: once cut off, they would not be recognised

    def repr_int(self, x: int, level: int) -> str:
        del level
        return _cut(repr(x)) if x.bit_length() < 10_000 else "a very large number"  # Python writes 4,300 digits at most


_SHORT = _Short()

"""Read foreign text as UTF-8 or by its byte order mark (lines may be gzipped), and make names of it."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from gare.common.errors import InputError

MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LONGEST_MARK: Final = 4
GZIP: Final = b"\x1f\x8b"
LINE_CHARACTERS: Final = 64 * 2**20
LONGEST_NAME: Final = 200
LONGEST_TEXT: Final = 10_000
"""Most characters of a caption, id, path, split, attribute or query; CLIP reads about 400 of a sentence."""

PLAIN_NAME: Final = re.compile(r"\w[\w .+=@-]{0,99}")
"""Names that are safe for files and folders; in bytes they may still be too long (``folder_name``)."""


def folder_name(text: str) -> str:
    """Return a folder name for ``text``: the text itself if it is plain, else one derived from it."""
    if PLAIN_NAME.fullmatch(text) and len(text.encode()) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return re.sub("[^A-Za-z0-9]+", "_", text)[:60].strip("_") + f"-{digest}"


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text by its first bytes: that of its byte order mark, UTF-8 without one.

    Raises UnicodeDecodeError for UTF-16 without a mark, which would pass as UTF-8 full of NULs.
    """
    encoding = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start[:LONGEST_MARK]:
        raise UnicodeDecodeError("utf-8", start, 0, 1, "a NUL byte")
    return encoding


def decode(data: bytes) -> str:
    """Decode a whole file, without its byte order mark; UnicodeDecodeError if it is not text."""
    return data.decode(encoding_of(data))


@contextmanager
def open_lines(path: Path, *, newline: str | None = None) -> Iterator[Iterator[str]]:
    """Open a text file, gzipped or not, for reading line by line; ``newline`` as for ``open``.

    Memory stays bounded whatever a small gzip file unpacks to. Raises InputError for a damaged gzip file and for a line
    of more than LINE_CHARACTERS, UnicodeDecodeError for a file that is not text.
    """
    with path.open("rb") as file:
        packed = file.peek(len(GZIP)).startswith(GZIP)
        stream: BinaryIO = io.BufferedReader(gzip.GzipFile(fileobj=file)) if packed else file
        try:
            encoding = encoding_of(stream.peek(LONGEST_MARK))  # type: ignore[attr-defined]
            with io.TextIOWrapper(stream, encoding=encoding, newline=newline) as text:
                yield _lines(text, path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is gzipped and damaged, or cut off ({error}).") from None


def _lines(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(LINE_CHARACTERS + 1):
        number += 1
        if len(line) > LINE_CHARACTERS:
            raise InputError(f"{path} line {number} is longer than {LINE_CHARACTERS:,} characters.")
        yield line

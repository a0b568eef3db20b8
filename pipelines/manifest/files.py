"""Read files from other sources: find them below a folder, and read their rows, lines and values."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from gare.common.errors import InputError
from gare.common.parquet import BoundedParquet
from gare.common.records import load_json
from gare.common.redact import first_line
from gare.common.text import decode, open_lines

FIELD_CHARACTERS = 16 * 2**20


@dataclass(frozen=True)
class CsvForm:
    """The format of a CSV file.

    ``quoted``: quotes enclose cells; otherwise they are ordinary text. ``header``: the column names of a file
    without a header line.
    """

    delimiter: str = ","
    quoted: bool = True
    header: tuple[str, ...] = ()


COMMAS = CsvForm()


def csv_rows(
    path: Path, check_header: Callable[[list[str]], None], form: CsvForm = COMMAS
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line on which each row below the header starts, and the row's cells by column.

    ``check_header`` receives the column names first, without surrounding spaces.
    """
    csv.field_size_limit(FIELD_CHARACTERS)
    with _sentences(path), open_lines(path, newline="") as lines:
        records = _records(path, lines, form)
        header = [name.strip() for name in next(records)[1]]
        check_header(header)
        for line, cells in records:
            if len(cells) != len(header):
                raise InputError(f"{path} line {line} has {len(cells)} cells, and not {len(header)} as the header.")
            yield line, dict(zip(header, cells, strict=True))


def _records(path: Path, lines: Iterator[str], form: CsvForm) -> Iterator[tuple[int, list[str]]]:
    """Yield the line each record starts on and its cells, the header first. Empty lines are skipped.

    If a name in the header follows a space, spaces are skipped before every cell, so that a quote after one opens it.
    """
    rules: dict[str, Any] = {"delimiter": form.delimiter, "strict": True}
    rules["quoting"] = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    start, above = 1, 0
    try:
        if form.header:
            yield 0, list(form.header)
        else:
            header, above, is_spaced = _header(lines, rules)
            rules["skipinitialspace"] = is_spaced
            yield 1, header
        reader = csv.reader(lines, **rules)
        start = above + 1
        for cells in reader:
            if cells:
                yield start, cells
            start = above + reader.line_num + 1
    except csv.Error as error:
        reason = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        hint = " If quotes are text in it, gare manifest csv --unquoted reads it." if form.delimiter == "\t" else ""
        raise InputError(f"{path} line {start} is not valid CSV: {reason}.{hint}") from None


def _header(lines: Iterator[str], rules: dict[str, Any]) -> tuple[list[str], int, bool]:
    """Return the first record's cells, its number of lines, and True if a space precedes one of its cells."""
    seen: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            seen.append(line)
            yield line

    reader = csv.reader(noted(), **rules)
    cells = next(filter(None, reader), [])
    is_spaced = any(name.startswith(" ") for name in cells)
    if is_spaced:
        cells = next(filter(None, csv.reader(seen, skipinitialspace=True, **rules)))
    return cells, reader.line_num, is_spaced


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file without their line ends; an empty last line does not count."""
    lines = _text(path).replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def json_value(path: Path) -> Any:
    """Return the value of a JSON file."""
    text = _text(path)
    try:
        return load_json(text, nan=True)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: line {error.lineno} column {error.colno}, {error.msg}.") from None
    except ValueError as error:
        raise InputError(f"{path} is JSON with a value that cannot be read: {error}.") from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of every non-empty line of a JSON lines file."""
    with _sentences(path), open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = load_json(line, nan=True)
                except ValueError as error:
                    raise InputError(f"{path} line {number} is not a JSON object: {error}.") from None
                if not isinstance(row, dict):
                    raise InputError(f"{path} line {number} is not a JSON object.")
                yield number, row


@contextmanager
def parquet_file(path: Path) -> Iterator[BoundedParquet]:
    """Open a Parquet file; any fault in it, including one found while reading in the block, is an InputError."""
    try:
        with _sentences(path), path.open("rb") as stream:
            yield BoundedParquet(stream, str(path), path)
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file, or damaged ({first_line(error)}).") from None


def plain_rows(batch: pa.RecordBatch, where: str) -> list[dict[str, Any]]:
    """Return a batch's rows as plain values. Raises InputError for invalid UTF-8 and times Python cannot represent."""
    try:
        batch.validate(full=True)
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise InputError(f"{where} holds something that cannot be read: {first_line(error)}.") from None
    return rows


def _text(path: Path) -> str:
    with _sentences(path):
        return decode(path.read_bytes())


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or first_line(error)}.") from None


UNREADABLE: Final = "cannot be read"
BROKEN_LINK: Final = "is a link that leads nowhere"
NO_FILE: Final = "is not a regular file"
NO_UTF8: Final = "has a name that is not UTF-8"


def files_below(root: str, left_out: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and path of every file, folder by folder, nearest first; each folder is visited once.

    Symbolic links are followed. Hidden files and folders, whose names begin with a dot, are skipped. Everything else
    that is unreadable, not a regular file or not named in UTF-8 is added to ``left_out``: its path, as text, and one
    of the reasons above.
    """
    level, seen = [root], set()
    while level:
        below = []
        for folder in level:
            try:
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                left_out[as_text(folder)] = UNREADABLE
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                kind = _kind(entry)
                if kind == "folder":
                    below.append(entry.path)
                elif kind == "file":
                    yield entry.name, entry.path
                else:
                    left_out[as_text(entry.path)] = kind
        level = below


def as_text(path: str) -> str:
    """Return a path for use in a message or a file, with bytes that are not UTF-8 shown in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _kind(entry: os.DirEntry[str]) -> str:
    """Return ``file`` or ``folder``, following symbolic links; otherwise the reason why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file" if _is_utf8(entry.path) else NO_UTF8
    except OSError as error:
        return BROKEN_LINK if error.errno == errno.ELOOP else UNREADABLE
    return BROKEN_LINK if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE  # noqa: PTH110


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True

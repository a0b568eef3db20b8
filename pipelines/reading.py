"""Files that others wrote: their rows, lines and values, or one sentence that says why not."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gare.common.errors import InputError

FIELD_CHARACTERS = 16 * 2**20


def csv_rows(
    path: Path, check_header: Callable[[list[str]], None], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells by column of every row below the header, which ``check_header`` sees first."""
    csv.field_size_limit(FIELD_CHARACTERS)
    with _sentences(path), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            check_header(list(reader.fieldnames or []))
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{path} line {reader.line_num} has more or fewer cells than the header.")
                yield reader.line_num, row
        except csv.Error as error:
            raise InputError(f"{path} line {reader.line_num} is not valid CSV: {error}.") from None


def text_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; a last empty one does not count."""
    with _sentences(path):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    return lines[:-1] if not lines[-1] else lines


def json_value(path: Path) -> Any:
    """The value of a JSON file."""
    with _sentences(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: line {error.lineno} column {error.colno}, {error.msg}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is JSON with a value that cannot be read.") from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of every line of JSON lines that is not empty."""
    with _sentences(path), path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise InputError(f"{path} line {number} is not a JSON object.")
                yield number, row


@contextmanager
def parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; whatever is wrong with it, also while it is read in the block, is an InputError."""
    try:
        with _sentences(path), path.open("rb") as stream:
            yield pq.ParquetFile(stream)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a Parquet file, or damaged ({reason}).") from None


def files_below(root: str, unreadable: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and path of every file, folder by folder, the nearest first; a folder is entered once.

    Symbolic links are followed. Folders that cannot be read are added to ``unreadable``.
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
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                unreadable.append(folder)
                continue
            for entry in entries:
                kind = _kind(entry)
                if kind == "file":
                    yield entry.name, entry.path
                elif kind == "folder":
                    below.append(entry.path)
        level = below


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder"] | None:
    """What an entry is, or what its symbolic link leads to; nothing for a broken link, a pipe or a device."""
    try:
        return "file" if entry.is_file() else "folder" if entry.is_dir() else None
    except OSError:
        return None


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None

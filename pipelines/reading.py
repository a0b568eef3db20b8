"""Text that others wrote: rows, lines and JSON of UTF-8 files, or one sentence that says why not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None

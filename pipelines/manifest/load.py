"""Read a manifest (Parquet, CSV or JSON lines), local or remote, one bounded table at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from gare.common.addresses import is_foreign, without_options
from gare.common.console import note
from gare.common.errors import InputError
from gare.common.redact import first_line, names, redact, shown
from gare.common.storage import Folder, is_address
from gare.schema import MANIFEST
from pipelines.manifest.files import json_lines, parquet_file
from pipelines.manifest.rows import (
    CHECK_ROWS,
    CSV_SUFFIXES,
    NO_ROWS,
    TEXT_SUFFIXES,
    VideoIds,
    check_repeated,
    check_rows,
    has_scheme,
    in_columns,
    located,
    text_suffix,
)
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv


def load_manifest(path: str | Path) -> pa.Table:
    """Read a whole manifest as one table, with the checks of ``stream_manifest``."""
    return pa.concat_tables(stream_manifest(path))


def stream_manifest(path: str | Path) -> Iterator[pa.Table]:
    """Read a manifest (Parquet, CSV or JSONL) in file order as bounded tables of the schema MANIFEST.

    ``path`` may be an address. Relative uris are relative to the manifest's folder and come out as absolute paths. A
    CSV file is read whole, because its rows are grouped by video.
    Raises InputError for an invalid manifest, at the latest when you ask for the last table: missing or unknown
    columns, wrong types, another schema version, repeated video ids, empty values, no rows.
    """
    if is_address(str(path)) and not Folder.at(str(path)).is_local:
        yield from _stream_remote(str(path))
    else:
        local = Path(Folder.at(str(path)).local) if is_address(str(path)) else Path(path)
        yield from _stream(local, str(path), lambda uri: located(uri, local.parent))


def _stream_remote(address: str) -> Iterator[pa.Table]:
    bare, options = without_options(address)
    above, _, name = bare.rpartition("/")

    def locate(uri: str) -> str:
        return uri if has_scheme(uri) or is_foreign(uri, "") else f"{above}/{quote(uri)}{options}"

    with tempfile.TemporaryDirectory(prefix="gare-") as scratch:
        copy = Path(scratch) / name
        try:
            Folder.at(address).fetch("", copy)
        except FileNotFoundError:
            raise InputError(f"There is no manifest {redact(address)}; gare manifest makes one.") from None
        yield from _stream(copy, redact(bare), locate)


def _stream(path: Path, where: str, locate: Callable[[str], str]) -> Iterator[pa.Table]:
    """Read one file: ``where`` names it in messages, ``locate`` makes a uri absolute."""
    if not path.is_file():
        raise InputError(f"There is no manifest {where}; gare manifest makes one.")
    ids, rows = VideoIds(), 0
    for raw in _raw_tables(path):
        table = in_columns(raw, where)
        if not table.num_rows:
            continue
        check_rows(table, where)
        ids.add(table["video_id"])
        rows += table.num_rows
        uris = pa.array([locate(uri) for uri in table["uri"].to_pylist()], pa.string())
        yield table.set_column(MANIFEST.get_field_index("uri"), MANIFEST.field("uri"), uris)
    if not rows:
        raise InputError(NO_ROWS.format(where))
    if ids.suspects:
        check_repeated((in_columns(raw, where) for raw in _raw_tables(path)), ids.suspects, where)


def _raw_tables(path: Path) -> Iterator[pa.Table]:
    """Yield the file's own columns, CHECK_ROWS rows at a time; at least one table, which may have no rows."""
    if text_suffix(path) in CSV_SUFFIXES:
        made = from_csv(path, SourceOptions(allow_uncaptioned=True, exact=True))
        if made.dropped_captions:
            note(f"{made.dropped_captions:,} captions of {path.name} were missing (nan, None, ...) and were dropped.")
        table = made.table
        yield from (table.slice(start, CHECK_ROWS) for start in range(0, max(1, table.num_rows), CHECK_ROWS))
    elif text_suffix(path) in TEXT_SUFFIXES:
        yield from _read_jsonl(path)
    else:
        yield from _read_parquet(path)


def _read_parquet(path: Path) -> Iterator[pa.Table]:
    try:
        with parquet_file(path) as file:
            yield file.schema.empty_table()  # reject wrong columns before reading any value
            for batch in file.batches():
                yield pa.Table.from_batches([batch])
    except InputError as error:
        if isinstance(error.__context__, OSError):
            raise
        raise InputError(f"{error} A manifest is Parquet, CSV or JSONL.") from None


def _read_jsonl(path: Path) -> Iterator[pa.Table]:
    """Read one JSON object per line; attributes are an object of strings."""
    lines = json_lines(path)
    while True:
        rows = [row for _, row in islice(lines, CHECK_ROWS)]
        yield _json_table(path, rows)
        if len(rows) < CHECK_ROWS:
            return


def _json_table(path: Path, rows: list[dict[str, Any]]) -> pa.Table:
    unknown = sorted({name for row in rows for name in row} - set(MANIFEST.names))
    if unknown:
        raise InputError(
            f"{path} has the key {names(unknown)}; a manifest has {', '.join(MANIFEST.names)}. "
            "gare manifest jsonl makes a manifest of any JSON lines."
        )
    for row in rows:
        captions = row.get("captions")
        if not isinstance(captions, list | None):  # pyarrow would split a string into its letters
            raise InputError(f"{path} has the captions {shown(captions)}, which are not a list of texts.")
        if isinstance(row.get("attributes"), Mapping):
            row["attributes"] = list(row["attributes"].items())
    try:
        columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in MANIFEST}
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise InputError(f"{path} has a value of the wrong type: {first_line(error)}.") from None
    return pa.table(columns)

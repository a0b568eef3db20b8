"""Tables of captions: a row is a caption, or a video with a list of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.manifest.files import CsvForm, csv_rows, json_lines, parquet_file, plain_rows
from pipelines.manifest.rows import text_suffix
from pipelines.manifest.sources.grouping import Row, group
from pipelines.manifest.sources.options import Made, SourceOptions, check_columns


def from_csv(path: Path, options: SourceOptions) -> Made:
    """Make a manifest of a CSV (tab-separated when named .tsv), gzipped or not; InputError with the line.

    Spaces around a cell do not count, but in attributes. A column ``attributes`` is left alone, as a cell is no
    mapping.
    """
    form = CsvForm("\t" if text_suffix(path) == ".tsv" else ",", not options.unquoted, options.header)
    lines = csv_rows(path, lambda header: check_columns(path, header, options), form)
    kept = set(options.read) - ({"attributes"} - {*options.attributes})
    rows = (
        Row(f"line {line}", {n: cells[n] if n in options.attributes else cells[n].strip() for n in cells.keys() & kept})
        for line, cells in lines
    )
    return group(path, rows, options, root=path.parent)


def from_jsonl(path: Path, options: SourceOptions) -> Made:
    """Make a manifest of JSON lines, an object each; InputError with the line. A key may be missing in some."""
    lines = list(json_lines(path))
    if lines:
        check_columns(path, list(dict.fromkeys(name for _, values in lines for name in values)), options)
    return group(path, (Row(f"line {line}", values) for line, values in lines), options, root=path.parent)


def from_parquet(path: Path, options: SourceOptions) -> Made:
    """Make a manifest of a Parquet file; InputError with the row, counted from 1. Other columns are not read."""
    with parquet_file(path) as file:
        header = file.schema.names
        check_columns(path, header, options)
        columns = [name for name in options.read if name in header]

        def rows() -> Iterator[Row]:
            number = 0
            for batch in file.batches(columns):
                for values in plain_rows(batch, str(path)):
                    number += 1
                    yield Row(f"row {number}", values)

        return group(path, rows(), options, root=path.parent)

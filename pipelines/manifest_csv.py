"""A manifest from a CSV file: one row per caption, or one row per video with a JSON list of captions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from gare.common.errors import InputError
from gare.schema import MANIFEST
from pipelines.manifest import REQUIRED, located, table_of
from pipelines.reading import csv_rows
from pipelines.splits import DEV, carve, taken_from_train


@dataclass(frozen=True)
class CsvOptions:
    """How a CSV file becomes a manifest.

    ``columns``: manifest column -> column of the file, where the names differ. ``root``: folder of relative uris,
    the file's own by default. ``split``: gives every row this split. ``carve``: split -> share of the videos, the
    rest being train. ``attributes``: columns copied into the attributes. ``exact``: refuse columns that
    would not be read.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    split: str | None = None
    carve: Mapping[str, float] | None = None
    seed: int = 0
    attributes: tuple[str, ...] = ()
    allow_uncaptioned: bool = False
    exact: bool = False


@dataclass(frozen=True)
class FromCsv:
    """The manifest, the rows read, and how many videos were dropped for want of a caption."""

    table: pa.Table
    rows: int
    uncaptioned: int


@dataclass
class _Video:
    line: int
    key: str
    values: dict[str, Any]
    captions: dict[str, None] = field(default_factory=dict)


def from_csv(path: Path, options: CsvOptions) -> FromCsv:
    """Group the rows of a UTF-8 CSV (tab-separated when named .tsv) into videos, in order of first appearance.

    When video_id is read from the same column as uri, it is the file's name without folder and suffix; where
    two files share that, the path without suffix; where they share that too, the path. Raises InputError with the line.
    """
    if options.root is not None and not options.root.is_dir():
        raise InputError(f"There is no folder {options.root}; --root is the folder of relative files.")
    videos: dict[str, _Video] = {}
    rows = 0
    for line, row in _rows(path, options):
        rows += 1
        _add(videos, line, row, path, options)
    if not rows:
        raise InputError(f"{path} has no rows below its header.")
    kept = [v for v in videos.values() if v.captions or options.allow_uncaptioned]
    if not kept:
        raise InputError(f"No row of {path} has a caption; --allow-uncaptioned keeps videos without one.")
    ids = _video_ids([v.key for v in kept], path) if _ids_from_uris(options) else [v.key for v in kept]
    splits = _splits(ids, kept, options)
    table = [
        {**_values(video, split, options), "video_id": name, "split": split, "captions": list(video.captions)}
        for video, name, split in zip(kept, ids, splits, strict=True)
    ]
    return FromCsv(table_of(table, str(path)), rows, len(videos) - len(kept))


def _source(column: str, options: CsvOptions) -> str:
    return options.columns.get(column, column)


def _ids_from_uris(options: CsvOptions) -> bool:
    return _source("video_id", options) == _source("uri", options)


def _rows(path: Path, options: CsvOptions) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    return csv_rows(path, lambda header: _check_header(path, header, options), delimiter)


def _check_header(path: Path, header: list[str], options: CsvOptions) -> None:
    if not header:
        raise InputError(f"{path} is empty.")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise InputError(f"{path} has the column {repeated[0]!r} twice.")
    unknown = [name for name in options.columns if name not in MANIFEST.names]
    if unknown:
        raise InputError(f"A manifest has no column {unknown[0]}; its columns are {', '.join(MANIFEST.names)}.")
    needed = ["video_id", "uri", *([] if options.allow_uncaptioned else ["captions"])]
    wanted = [*(_source(name, options) for name in needed), *options.columns.values(), *options.attributes]
    missing = list(dict.fromkeys(name for name in wanted if name not in header))
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; its columns are {', '.join(header)}. "
            "--columns names others, such as --columns video_id=file,uri=file."
        )
    unread = [name for name in header if name not in MANIFEST.names or name == "attributes"]
    if options.exact and unread:
        raise InputError(
            f"{path} has the column {', '.join(unread)}, which a manifest in CSV does not have; "
            "gare manifest csv makes a manifest of any CSV file."
        )
    if options.split is None and options.carve is None and _source("split", options) not in header:
        raise InputError(
            f"{path} has no split column; give --split NAME for all rows, or --carve dev=0.1,test=0.1 to draw them."
        )


def _add(videos: dict[str, _Video], line: int, row: dict[str, str], path: Path, options: CsvOptions) -> None:
    where = f"{path} line {line}"
    cells = {name: row.get(_source(name, options), "").strip() for name in MANIFEST.names}
    for name in REQUIRED[:2]:
        if not cells[name]:
            raise InputError(f"{where} has no {name}.")
    values: dict[str, Any] = {
        "uri": located(cells["uri"], options.root or path.parent),
        "start_s": _seconds(cells["start_s"], where),
        "end_s": _seconds(cells["end_s"], where),
        "attributes": [(name, row[name]) for name in options.attributes] or None,
    }
    if options.split is None and options.carve is None:
        if not cells["split"]:
            raise InputError(f"{where} has no split.")
        values["split"] = cells["split"]
    video = videos.setdefault(cells["video_id"], _Video(line, cells["video_id"], values))
    different = [name for name, value in values.items() if video.values[name] != value]
    if different:
        raise InputError(f"{where}: {video.key!r} has another {different[0]} than in line {video.line}.")
    video.captions.update(dict.fromkeys(_captions(cells["captions"])))


def _captions(cell: str) -> list[str]:
    if cell.startswith("["):
        try:
            listed = json.loads(cell)
        except (ValueError, RecursionError):
            listed = None  # a caption may begin with a bracket: "[music] ..."
        if isinstance(listed, list) and all(isinstance(caption, str) for caption in listed):
            return [caption.strip() for caption in listed if caption.strip()]
    return [cell] if cell else []


def _seconds(cell: str, where: str) -> float | None:
    if not cell:
        return None
    try:
        seconds = float(cell)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InputError(f"{where}: {cell!r} is no number of seconds.")
    return seconds


def _splits(ids: list[str], videos: list[_Video], options: CsvOptions) -> list[str]:
    if options.carve is not None:
        return carve(ids, options.carve, options.seed)
    if options.split is not None:
        return [options.split] * len(ids)
    return [video.values["split"] for video in videos]


def _values(video: _Video, split: str, options: CsvOptions) -> dict[str, Any]:
    if options.carve is None or split != DEV:
        return video.values
    return {**video.values, "attributes": taken_from_train(video.values["attributes"])}


def _video_ids(files: list[str], path: Path) -> list[str]:
    """Name each file as shortly as tells it from all others: its stem, its path without suffix, or its path."""
    ids = files
    for names in (
        [str(PurePosixPath(f)).removesuffix(PurePosixPath(f).suffix) for f in files],
        [PurePosixPath(f).stem for f in files],
    ):
        counts = Counter(names)
        ids = [name if counts[name] == 1 else longer for name, longer in zip(names, ids, strict=True)]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"{path} has two files that would both be the video {repeated[0]!r}; give a video_id column.")
    return ids

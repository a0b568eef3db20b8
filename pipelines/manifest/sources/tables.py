"""Make a manifest from tables of captions, grouping their rows by video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from gare.common.addresses import advice_on
from gare.common.errors import InputError
from pipelines.manifest.files import CsvForm, csv_rows, json_lines, parquet_file, plain_rows
from pipelines.manifest.rows import DEV, carve, located, table_of, taken_from_train, text_suffix
from pipelines.manifest.sources import values
from pipelines.manifest.sources.options import Made, SourceOptions, check_columns

SOURCE: Final = "source"
"""Attribute that names the file of a clip, so that you can find the clips of one file."""


def clip_id(name: str, start_s: float | None, end_s: float | None) -> str:
    """Name a clip of the file or video ``name``, such as ``a@00010.000-00020.000``; names sort in clip order."""
    return f"{name}@{start_s or 0:09.3f}-{'end' if end_s is None else f'{end_s:09.3f}'}"


class Row(NamedTuple):
    """A row of a source: its place there, such as ``line 3``, and its cells by the source's column names."""

    place: str
    cells: Mapping[str, Any]


@dataclass
class _Video:
    """A future manifest row. ``key``: its id as given, or its file; ``file``: its uri, relative to root."""

    place: str
    key: str
    file: str
    values: dict[str, Any]
    captions: dict[str, None] = field(default_factory=dict)

    @property
    def clip(self) -> tuple[float | None, float | None]:
        return self.values["start_s"], self.values["end_s"]


def group(source: Path, rows: Iterable[Row], options: SourceOptions, *, root: Path) -> Made:
    """Group rows into videos, in order of first appearance.

    ``root``: folder of relative uris if the options name none. If video_id and uri are the same column, a video's id
    is the file's name without folder and suffix; if two files share that, the path without suffix; if they share that
    too, the path. Clips of one file then also carry their times. Raises InputError with the place.
    """
    if options.root is not None and not options.root.is_dir():
        raise InputError(f"There is no folder {options.root}; --root is the folder of relative files.")
    videos: dict[tuple[Any, ...], _Video] = {}
    count = dropped = 0
    for row in rows:
        count += 1
        dropped += _add(videos, row, source, options, options.root or root)
    if not count:
        raise InputError(f"{source} has no rows.")
    kept = [video for video in videos.values() if video.captions or options.allow_uncaptioned]
    if not kept:
        raise InputError(f"No row of {source} has a caption; --allow-uncaptioned keeps videos without one.")
    ids = _ids_of_files(kept) if options.ids_from_uris else [video.key for video in kept]
    splits = _splits(ids, kept, options)
    made = [
        {**_values(video, split, options), "video_id": name, "split": split, "captions": list(video.captions)}
        for video, name, split in zip(kept, ids, splits, strict=True)
    ]
    several = _in_several_splits(kept, splits)
    return Made(table_of(made, str(source)), count, len(videos) - len(kept), dropped, several)


def distinct_ids(files: Sequence[str], shorter: Sequence[Callable[[str], str]]) -> list[str]:
    """Give each file its shortest unique name: the last of ``shorter`` that sets it apart from all others."""
    ids = list(files)
    for shorten in shorter:
        names = [shorten(file) for file in files]
        counts, taken = Counter(names), set(ids)
        ids = [
            name if counts[name] == 1 and (name == longer or name not in taken) else longer
            for name, longer in zip(names, ids, strict=True)
        ]
    return ids


def without_suffix(file: str) -> str:
    """Return a path without its suffix."""
    path = PurePosixPath(file)
    return str(path).removesuffix(path.suffix)


def stem(file: str) -> str:
    """Return a file's name without folder and suffix."""
    return PurePosixPath(file).stem


def _ids_of_files(videos: Sequence[_Video]) -> list[str]:
    """Return ids from the files' names; ids of clips also hold their times, and clips get their file as ``source``."""
    clips = Counter(video.key for video in videos)
    names = dict(zip(clips, distinct_ids(list(clips), (without_suffix, stem)), strict=True))
    for video in videos:
        if clips[video.key] > 1:
            others = [pair for pair in video.values["attributes"] or () if pair[0] != SOURCE]
            video.values["attributes"] = [(SOURCE, names[video.key]), *others]
    return [names[video.key] if clips[video.key] == 1 else clip_id(names[video.key], *video.clip) for video in videos]


def _add(videos: dict[tuple[Any, ...], _Video], row: Row, source: Path, options: SourceOptions, root: Path) -> int:
    """Add a row to its video and return the number of captions that were dropped."""
    where = f"{source} {row.place}"

    def cell(name: str) -> Any:
        return row.cells.get(options.source_of(name))

    needed = ["video_id", "uri", *(["split"] if options.split is None and options.carve is None else [])]
    given = {name: values.text(cell(name), name, where) for name in needed}
    for name, value in given.items():
        if not value:
            raise InputError(f"{where} has no {name}.")
    named = {name: values.attribute(row.cells.get(name)) for name in options.attributes}
    found: dict[str, Any] = {
        **given,
        "uri": located(given["uri"], root) if options.exact else _located(given["uri"], root, where),
        "start_s": values.seconds(cell("start_s"), where),
        "end_s": values.seconds(cell("end_s"), where),
        "attributes": list((values.attributes(cell("attributes"), where) | named).items()) or None,
    }
    key = found.pop("video_id")
    clip = (found["start_s"], found["end_s"]) if options.ids_from_uris else ()
    video = videos.setdefault((key, *clip), _Video(row.place, key, _below(found["uri"], root), found))
    different = [name for name, value in found.items() if video.values[name] != value]
    if different:
        hint = " Clips of one video need an id each." if {*different} & {"start_s", "end_s"} else ""
        raise InputError(f"{where}: {key!r} has another {different[0]} than in {video.place}.{hint}")
    captions, dropped = values.captions(cell("captions"), where)
    video.captions.update(dict.fromkeys(captions))
    return dropped


def _located(uri: str, root: Path, where: str) -> str:
    advice = advice_on(uri, root)
    if advice is not None:
        raise InputError(f"{where}: the uri {uri!r} {advice}.")
    return located(uri, root)


def _below(uri: str, root: Path) -> str:
    """Return a uri relative to the root if it lies below it, so that it is the same wherever the videos are."""
    return uri.removeprefix(f"{os.path.abspath(root)}/")  # noqa: PTH100 - symlinks stay


def _splits(ids: Sequence[str], videos: Sequence[_Video], options: SourceOptions) -> list[str]:
    """Return each video's split. Draw it by the video's id, or by the file for clips and rows that share a file.

    This way, two clips of one film are never drawn into different splits.
    """
    if options.carve is not None:
        rows = Counter(video.file for video in videos)
        by_file = (rows[video.file] > 1 or video.clip != (None, None) for video in videos)
        keys = [video.file if shared else name for video, name, shared in zip(videos, ids, by_file, strict=True)]
        return carve(keys, options.carve, options.seed)
    if options.split is not None:
        return [options.split] * len(ids)
    return [video.values["split"] for video in videos]


def _in_several_splits(videos: Sequence[_Video], splits: Sequence[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    pairs = zip(videos, splits, strict=True)
    return tuple({v.file: None for v, split in pairs if first.setdefault(v.file, split) != split})


def _values(video: _Video, split: str, options: SourceOptions) -> dict[str, Any]:
    if options.carve is None or split != DEV:
        return video.values
    return {**video.values, "attributes": taken_from_train(video.values["attributes"])}


def from_csv(path: Path, options: SourceOptions) -> Made:
    """Make a manifest from a CSV file (tab-separated if named .tsv), gzipped or not. Raises InputError with the line.

    Spaces around a cell are removed, except in attributes. A column ``attributes`` is ignored, because a cell is not
    a mapping.
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
    """Make a manifest from JSON lines, one object each; keys may be missing. Raises InputError with the line."""
    lines = list(json_lines(path))
    if lines:
        check_columns(path, list(dict.fromkeys(name for _, values in lines for name in values)), options)
    return group(path, (Row(f"line {line}", values) for line, values in lines), options, root=path.parent)


def from_parquet(path: Path, options: SourceOptions) -> Made:
    """Make a manifest from a Parquet file, reading only needed columns. Raises InputError with the row, from 1."""
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

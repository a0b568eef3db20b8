"""From rows to videos to a manifest: what all sources share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gare.common.errors import InputError
from pipelines.manifest import located, table_of
from pipelines.sources import values
from pipelines.sources.options import Made, SourceOptions
from pipelines.splits import DEV, carve, taken_from_train


class Row(NamedTuple):
    """A row of a source: where it is in it, such as ``line 3``, and its cells by the source's column names."""

    place: str
    cells: Mapping[str, Any]


@dataclass
class _Video:
    place: str
    key: str
    values: dict[str, Any]
    captions: dict[str, None] = field(default_factory=dict)


def group(source: Path, rows: Iterable[Row], options: SourceOptions, *, root: Path) -> Made:
    """Group rows into videos, in order of first appearance.

    ``root``: folder of relative uris where the options name none. When video_id is read from the same column as uri,
    it is the file's name without folder and suffix; where two files share that, the path without suffix; where they
    share that too, the path. Raises InputError with the place.
    """
    if options.root is not None and not options.root.is_dir():
        raise InputError(f"There is no folder {options.root}; --root is the folder of relative files.")
    videos: dict[str, _Video] = {}
    count = 0
    for row in rows:
        count += 1
        _add(videos, row, source, options, options.root or root)
    if not count:
        raise InputError(f"{source} has no rows.")
    kept = [video for video in videos.values() if video.captions or options.allow_uncaptioned]
    if not kept:
        raise InputError(f"No row of {source} has a caption; --allow-uncaptioned keeps videos without one.")
    keys = [video.key for video in kept]
    ids = distinct_ids(keys, (without_suffix, stem), source) if options.ids_from_uris else keys
    made = [
        {**_values(video, split, options), "video_id": name, "split": split, "captions": list(video.captions)}
        for video, name, split in zip(kept, ids, _splits(ids, kept, options), strict=True)
    ]
    return Made(table_of(made, str(source)), count, len(videos) - len(kept))


def distinct_ids(files: Sequence[str], shorter: Sequence[Callable[[str], str]], source: Path) -> list[str]:
    """Name each file as shortly as tells it from all others: by the last of ``shorter`` that does, or its path.

    Raises InputError when two files would still have one name.
    """
    ids = list(files)
    for shorten in shorter:
        names = [shorten(file) for file in files]
        counts = Counter(names)
        ids = [name if counts[name] == 1 else longer for name, longer in zip(names, ids, strict=True)]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(
            f"{source} has two files that would both be the video {repeated[0]!r}; give a video_id column."
        )
    return ids


def without_suffix(file: str) -> str:
    """A path without its suffix."""
    path = PurePosixPath(file)
    return str(path).removesuffix(path.suffix)


def stem(file: str) -> str:
    """A file's name without folder and suffix."""
    return PurePosixPath(file).stem


def _add(videos: dict[str, _Video], row: Row, source: Path, options: SourceOptions, root: Path) -> None:
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
        "uri": located(given["uri"], root),
        "start_s": values.seconds(cell("start_s"), where),
        "end_s": values.seconds(cell("end_s"), where),
        "attributes": list((values.attributes(cell("attributes"), where) | named).items()) or None,
    }
    key = found.pop("video_id")
    video = videos.setdefault(key, _Video(row.place, key, found))
    different = [name for name, value in found.items() if video.values[name] != value]
    if different:
        raise InputError(f"{where}: {key!r} has another {different[0]} than in {video.place}.")
    video.captions.update(dict.fromkeys(values.captions(cell("captions"), where)))


def _splits(ids: Sequence[str], videos: Sequence[_Video], options: SourceOptions) -> list[str]:
    if options.carve is not None:
        return carve(list(ids), options.carve, options.seed)
    if options.split is not None:
        return [options.split] * len(ids)
    return [video.values["split"] for video in videos]


def _values(video: _Video, split: str, options: SourceOptions) -> dict[str, Any]:
    if options.carve is None or split != DEV:
        return video.values
    return {**video.values, "attributes": taken_from_train(video.values["attributes"])}

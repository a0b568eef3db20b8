"""Input and output of a benchmark's reader: an annotation folder, and videos with captions by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gare.common.errors import InputError
from gare.common.records import read_small
from gare.common.redact import names, shown
from pipelines.manifest.files import csv_rows, json_value, text_lines


@dataclass(frozen=True)
class Options:
    """The protocol to build; each benchmark reads the options that apply to it.

    ``train`` and ``test``: the lists of MSR-VTT. ``dev_share`` and ``seed``: the share of train that becomes dev
    if a benchmark publishes no dev split, and the seed that draws it. ``moments``: make one row per described
    moment instead of one per video.
    """

    train: str = "9k"
    test: str = "1k-A"
    dev_share: float = 0.05
    seed: int = 0
    moments: bool = False


class Moment(NamedTuple):
    """A part of a video, in seconds, and the caption that describes it."""

    start_s: float
    end_s: float
    caption: str


@dataclass(frozen=True)
class Entry:
    """One video as annotated.

    ``captions``: in their order, exactly as written there. ``files``: names its file may have, with or without
    suffix, the likeliest first; its id by default. ``end_s``: where the clip ends, in seconds. ``moments``: the
    moments that the captions describe, if each is to become a row.
    """

    video_id: str
    captions: Sequence[str]
    files: tuple[str, ...] = ()
    end_s: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    moments: Sequence[Moment] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The file names to look for."""
        return self.files or (self.video_id,)


@dataclass(frozen=True)
class Published:
    """Published numbers of videos and captions of a split; None if unknown."""

    videos: int | None = None
    captions: int | None = None


@dataclass(frozen=True)
class Split:
    """One split of the annotations: the files it is read from, and its videos; None if a file is absent."""

    name: str
    files: tuple[str, ...]
    published: Published
    entries: list[Entry] | None


@dataclass(frozen=True)
class Benchmark:
    """Instructions for turning a benchmark's annotations into a manifest.

    ``dev``: where the dev split comes from: an official split of its own (``separate``); an official list of videos
    that train also contains, which are removed from train (``inside train``); or a draw from train, because there is
    no official one (``carved``). ``paragraph``: join a video's captions into one.
    """

    title: str
    read: Callable[[Folder, Options], list[Split]]
    dev: Literal["separate", "inside train", "carved"] = "separate"
    paragraph: bool = False


class Folder:
    """The folder of a benchmark's annotation files; some of them may be missing."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise InputError(f"There is no folder {path}; --annotations is the folder of the annotation files.")
        self.path = path
        self.used: set[Path] = set()
        self.notes: list[str] = []

    def has(self, *names: str) -> bool:
        """Return True if all these files exist."""
        return not self.lacking(names)

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Return those of the files that do not exist."""
        return [name for name in names if not (self.path / name).exists()]

    def json(self, name: str) -> Any:
        """Return the value of a JSON file."""
        return json_value(self._use(name))

    def lines(self, name: str) -> list[str]:
        """Return the lines of a text file without their line ends."""
        return [line.rstrip("\r") for line in text_lines(self._use(name))]

    def rows(self, name: str, *columns: str) -> list[tuple[str, ...]]:
        """Return the cells of these columns of a CSV file, row by row, without surrounding spaces."""
        path = self._use(name)

        def check(header: list[str]) -> None:
            missing = [column for column in columns if column not in header]
            if missing:
                raise InputError(f"{path} has no column {names(missing)}; its columns are {names(header)}.")

        return [tuple(row[column].strip() for column in columns) for _, row in csv_rows(path, check)]

    def content(self, name: str, limit: int) -> bytes:
        """Return the bytes of a file of at most ``limit`` bytes."""
        return read_small(self._use(name), limit)

    def split(
        self, name: str, files: tuple[str, ...], published: Published, entries: Callable[[], list[Entry]]
    ) -> Split:
        """Read one split if its files exist. Raises InputError if it has no video, or one twice."""
        if not self.has(*files):
            return Split(name, files, published, None)
        found = entries()
        where = self.path / files[0]
        if not found:
            raise InputError(f"{where} names no video.")
        repeated = [video_id for video_id, count in Counter(e.video_id for e in found).items() if count > 1]
        if repeated:
            raise InputError(f"{where} names the video {shown(repeated[0])} more than once.")
        unreadable = [e.video_id for e in found if not e.video_id or not e.video_id.isprintable()]
        if unreadable:
            raise InputError(f"{where} names the video {shown(unreadable[0])}, which cannot be the name of a file.")
        return Split(name, files, published, found)

    def _use(self, name: str) -> Path:
        self.used.add(self.path / name)
        return self.path / name


def expect(kind: type, value: Any, where: str, what: str) -> Any:
    """Return ``value`` if it has the type; otherwise raise InputError saying that it is not ``what``."""
    if not isinstance(value, kind):
        raise InputError(f"{where} is not {what}; is it the file as published?")
    return value


def text_of(row: Any, key: str, where: str) -> str:
    """Return the text under a key of a JSON object. Raises InputError if there is none."""
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise InputError(f"{where} has no text under {key!r}; is it the file as published?")
    return str(row[key])

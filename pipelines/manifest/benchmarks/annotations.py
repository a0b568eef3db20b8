"""What a benchmark's reader gets, an annotation folder, and what it makes of it: videos with captions, by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gare.common.errors import InputError
from gare.common.redact import names, shown
from pipelines.manifest.files import csv_rows, json_value, text_lines


@dataclass(frozen=True)
class Options:
    """Which of a benchmark's protocols is meant; each benchmark reads its own.

    ``train`` and ``test``: the lists of MSR-VTT. ``dev_share`` and ``seed``: the share of train that becomes dev
    where a benchmark publishes no dev split, and what it is drawn by. ``moments``: a row for each moment that is
    described, in place of one for each video.
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
    """One video as the annotations have it.

    ``captions`` in their order, as they are written there. ``files``: names its file may have, with or without
    suffix, the likeliest first; its id by default. ``end_s``: where the clip ends, in seconds. ``moments``: what the
    captions describe, where each moment is to be a row.
    """

    video_id: str
    captions: Sequence[str]
    files: tuple[str, ...] = ()
    end_s: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    moments: Sequence[Moment] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names to look for."""
        return self.files or (self.video_id,)


@dataclass(frozen=True)
class Published:
    """How many videos and captions a split has as published; None where the number is not known."""

    videos: int | None = None
    captions: int | None = None


@dataclass(frozen=True)
class Split:
    """One split of the annotations: the files it is read from, and its videos; None when a file is absent."""

    name: str
    files: tuple[str, ...]
    published: Published
    entries: list[Entry] | None


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark becomes a manifest.

    ``dev``: a split of its own (``separate``); one whose videos the train list holds too, and which is taken out of
    it (``inside train``); or none, so that one is drawn from train (``carved``). ``paragraph``: a video's captions
    are joined to one.
    """

    title: str
    read: Callable[[Folder, Options], list[Split]]
    dev: Literal["separate", "inside train", "carved"] = "separate"
    paragraph: bool = False


class Folder:
    """The folder of a benchmark's annotation files, which may hold some of them only."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise InputError(f"There is no folder {path}; --annotations is the folder of the annotation files.")
        self.path = path
        self.used: set[Path] = set()
        self.notes: list[str] = []

    def has(self, *names: str) -> bool:
        """Whether all these files are there."""
        return not self.lacking(names)

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Those of the files that are not there."""
        return [name for name in names if not (self.path / name).exists()]

    def json(self, name: str) -> Any:
        """The value of a JSON file."""
        return json_value(self._use(name))

    def lines(self, name: str) -> list[str]:
        """The lines of a text file without their ends."""
        return [line.rstrip("\r") for line in text_lines(self._use(name))]

    def rows(self, name: str, *columns: str) -> list[tuple[str, ...]]:
        """The cells of these columns of a CSV file, row by row, without spaces around them."""
        path = self._use(name)

        def check(header: list[str]) -> None:
            missing = [column for column in columns if column not in header]
            if missing:
                raise InputError(f"{path} has no column {names(missing)}; its columns are {names(header)}.")

        return [tuple(row[column].strip() for column in columns) for _, row in csv_rows(path, check)]

    def content(self, name: str, limit: int) -> bytes:
        """The bytes of a file of at most ``limit`` bytes."""
        path = self._use(name)
        try:
            with path.open("rb") as stream:
                content = stream.read(limit + 1)
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror}.") from None
        if len(content) > limit:
            raise InputError(f"{path} is longer than {limit} bytes.")
        return content

    def split(
        self, name: str, files: tuple[str, ...], published: Published, entries: Callable[[], list[Entry]]
    ) -> Split:
        """One split, read when its files are there. Raises InputError when it has no video, or one twice."""
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
    """``value`` if it is of the type, for annotations that should hold ``what``; InputError otherwise."""
    if not isinstance(value, kind):
        raise InputError(f"{where} is not {what}; is it the file as published?")
    return value


def text_of(row: Any, key: str, where: str) -> str:
    """The text under a key of a JSON object; InputError when there is none."""
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise InputError(f"{where} has no text under {key!r}; is it the file as published?")
    return str(row[key])

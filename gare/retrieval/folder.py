"""The folder of an index: files that never change, and index.json, which names the files of one generation.

    index.json                    version, generation, model, format of the records, segments, recall; written last
    N-gG.records, .arrow          a segment's records, and its videos' ids, sources and attributes
    N-gG.codes                    its first stage, if there is one
    N-gG.media                    pictures of its videos and frame vectors for windows, if they are kept
    N-gG.deleted                  a bit per video, if any was deleted
    gG.basis, gG.lists            the texts and fit of the first stage; the centres of its lists
    .building-DIGEST/             finished parts of a change that was interrupted, which the same command takes up

A change writes new files, then replaces index.json by one rename, then removes the files it no longer names. Wherever
it stops, the folder answers as the previous or the new generation.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from pydantic import BaseModel, Field, model_validator

from gare.common.errors import InputError
from gare.common.files import atomic_file, file_digest, fsync_directory, make_folder, os_errors_as_input, write_json
from gare.common.locks import exclusive_lock
from gare.common.records import LENIENT, checked, load_json
from gare.common.redact import first_line, shown
from gare.common.storage import read_file
from gare.retrieval.recall import Recall
from gare.retrieval.records import Fields

INDEX_FILE = "index.json"
INDEX_VERSION = 4
CHANGED_VERSIONS = (3, INDEX_VERSION)
"""Versions that are read and changed; 3 has no lists."""

OURS = re.compile(r"(\d+-)?g\d+\.(records|arrow|codes|media|deleted|basis|lists)|vectors\.safetensors")
"""Names of an index's files other than index.json, including those of older versions."""

LEFT = re.compile(r"\.(index\.json|(\d+-)?g\d+\.[a-z]+)\..*\.tmp|\.lock")
"""Names of files that an interrupted change leaves."""

BUILDING = ".building-"
"""How the name of a folder of finished parts begins."""

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)


class SegmentFiles(BaseModel):
    """A segment: its number of videos, how many of them are deleted, and its files."""

    model_config = LENIENT

    videos: int = Field(ge=0)
    deleted: int = Field(default=0, ge=0)
    records: str
    about: str
    codes: str | None = None
    media: str | None = None
    deleted_bits: str | None = None

    def names(self) -> list[str]:
        """Return the names of its files."""
        named = (self.records, self.about, self.codes, self.media, self.deleted_bits)
        return [name for name in named if name is not None]


class IndexRecord(BaseModel):
    """The required content of ``index.json``; there may be more in it.

    ``checkpoint``: the model's checkpoint; for a CLIP without training its folder or hub id, and ``clip_data`` holds
    the settings for reading videos and texts. ``format``: the fields of a record. ``previews`` and ``windows``: what
    the media of its videos hold. ``digests``: SHA-256 of every file.
    """

    model_config = LENIENT

    version: int
    generation: int
    checkpoint: str
    weights_sha256: str
    clip_data: dict[str, object] | None = None
    dataset_digest: str
    split: str
    storage: str
    format: Fields
    segments: list[SegmentFiles]
    previews: bool = False
    windows: bool = False
    basis: str | None = None
    lists: str | None = None
    recall: Recall | None = None
    digests: dict[str, str]

    @model_validator(mode="after")
    def _stage_is_whole(self) -> Self:
        stage = (self.basis, self.recall, *(segment.codes for segment in self.segments))
        if any(part is None for part in stage) and any(part is not None for part in stage):
            raise ValueError("a part of its first stage is missing")
        if self.lists is not None and self.basis is None:
            raise ValueError("it has lists and no first stage")
        return self

    @property
    def videos(self) -> int:
        """Number of videos that can be found."""
        return sum(segment.videos - segment.deleted for segment in self.segments)

    def names(self) -> set[str]:
        """Return the names of all its files."""
        found = {name for segment in self.segments for name in segment.names()}
        return found | {name for name in (self.basis, self.lists) if name is not None}


def read_index_values(folder: Path) -> dict[str, Any]:
    """Return the content of ``index.json``, of any version. Raises InputError if there is none or it is damaged."""
    path = folder / INDEX_FILE
    text = read_file(path)
    if text is None:
        raise InputError(f"{folder} is not an index; make one with gare index CHECKPOINT --shards DIR --out {folder}.")
    try:
        values = load_json(text)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); make the index again.") from None
    return values if isinstance(values, dict) else {}


def read_index_file(folder: Path) -> IndexRecord:
    """Return the record of an index's folder. Raises InputError if it is missing, damaged or of another version."""
    path, values = folder / INDEX_FILE, read_index_values(folder)
    if values.get("version") not in CHANGED_VERSIONS:
        raise InputError(
            f"The index {folder} has version {shown(values.get('version'))}; this software changes "
            f"{' and '.join(map(str, CHANGED_VERSIONS))}. Make it again."
        )
    try:
        found = checked(IndexRecord, values)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); make the index again.") from None
    strange = sorted(name for name in found.names() if not OURS.fullmatch(name))
    if strange:
        raise InputError(f"{path} is damaged (it names a file {shown(strange[0])}); make the index again.")
    return found


def damaged_files(folder: Path, record: IndexRecord) -> list[str]:
    """Return the names of files that are missing or have changed."""

    def damaged(name: str) -> bool:
        try:
            return file_digest(folder / name) != record.digests.get(name)
        except OSError:
            return True

    return [name for name in sorted(record.names()) if damaged(name)]


def copy_index(folder: Path, target: Path) -> Path:
    """Copy the files that an index names, by links where the disk allows, to an empty folder, and return it."""
    record = read_index_file(folder)
    make_folder(target)
    if missing := sorted(name for name in record.names() if not (folder / name).is_file()):
        raise InputError(f"{folder / missing[0]} is gone. Make the index again.")
    with os_errors_as_input(target):
        for name in sorted(record.names()):
            try:
                (target / name).hardlink_to(folder / name)
            except OSError:
                shutil.copyfile(folder / name, target / name)
    write_json(target / INDEX_FILE, record.model_dump(mode="json"))
    return target


class Generation:
    """The next generation of an index under construction; the last one stays unchanged until ``commit``."""

    def __init__(self, folder: Path, last: IndexRecord | None, number: int) -> None:
        """Start a generation from ``last``; None for a new index."""
        self.folder, self.last, self.number = folder, last, number
        taken = [int(segment.records.partition("-")[0]) for segment in (last.segments if last else ())]
        self._segment = max(taken, default=0)

    @property
    def previous(self) -> IndexRecord:
        """The record of the last generation, of an index that is not new."""
        assert self.last is not None  # noqa: S101 - only a new index has none
        return self.last

    def segment(self) -> str:
        """Return the stem of a new segment's files."""
        self._segment += 1
        return f"{self._segment}-g{self.number}"

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a path to write to; the file gets its name when the block ends."""
        if not OURS.fullmatch(name) or (self.last is not None and name in self.last.names()):
            raise ValueError(f"{name} is no name for a new file of an index")
        with atomic_file(self.folder / name) as temporary:
            yield temporary

    def commit(self, record: IndexRecord) -> IndexRecord:
        """Write ``index.json`` with the digests of all files, then remove files that are no longer used."""
        known = self.last.digests if self.last is not None else {}
        digests = {name: known.get(name) or file_digest(self.folder / name) for name in sorted(record.names())}
        now = {"version": INDEX_VERSION, "generation": self.number, "digests": digests}
        done = record.model_copy(update=now)
        write_json(self.folder / INDEX_FILE, done.model_dump(mode="json"))
        _remove_others(self.folder, done.names())
        _remove_building(self.folder)
        return done

    def building(self, digest: str) -> Path:
        """Return the folder of the finished parts of this change, which goes at ``commit``; remove those of others."""
        folder = self.folder / (BUILDING + digest)
        _remove_building(self.folder, but=folder.name)
        return make_folder(folder)

    def forget_building(self) -> None:
        """Remove the finished parts of a change that is not made."""
        _remove_building(self.folder)


@contextmanager
def next_generation(folder: Path, *, new: bool = False) -> Iterator[Generation]:
    """Lock a folder while its next generation is made.

    ``new``: the folder need not be an index yet, and an existing index is replaced. Raises InputError for a folder of
    other things, or, unless ``new``, without an index; RunError while another process changes it.
    """
    if new:
        make_folder(folder)
        with os_errors_as_input(folder):
            foreign = [path for path in folder.iterdir() if not _is_ours(path.name)]
        if foreign and not (folder / INDEX_FILE).is_file():
            raise InputError(f"{folder} holds other things and no {INDEX_FILE}; choose a new or empty folder.")
    else:
        read_index_file(folder)
    with exclusive_lock(folder):
        last = None if new else read_index_file(folder)
        _remove_unnamed(folder)
        try:
            yield Generation(folder, last, _newest(folder) + 1)
        except BaseException:
            with suppress(InputError):
                _remove_unnamed(folder)
            raise


def _remove_unnamed(folder: Path) -> None:
    """Remove files that the folder's index does not name; none if it cannot be read, such as one of another version."""
    if not (folder / INDEX_FILE).exists():
        _remove_others(folder, set())
        return
    with suppress(InputError):
        _remove_others(folder, read_index_file(folder).names())


def _is_ours(name: str) -> bool:
    return name == INDEX_FILE or name.startswith(BUILDING) or bool(OURS.fullmatch(name) or LEFT.fullmatch(name))


def _remove_building(folder: Path, but: str = "") -> None:
    with os_errors_as_input(folder):
        for path in folder.glob(f"{BUILDING}*"):
            if path.name != but:
                shutil.rmtree(path, ignore_errors=True)


def _newest(folder: Path) -> int:
    """Return the highest generation of any file; 0 for none."""
    found = (re.match(r"(?:\d+-)?g(\d+)\.", path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in found if match), default=0)


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove an index's files that are not named, and leftovers of interrupted changes."""
    with os_errors_as_input(folder):
        for path in folder.iterdir():
            stale = bool(LEFT.fullmatch(path.name)) and path.name != ".lock"
            if stale or (OURS.fullmatch(path.name) and path.name not in names):
                path.unlink(missing_ok=True)
        fsync_directory(folder)

"""Read prepared shards: memory-mapped, checked against their dataset manifest, one split at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gare.common.blocks import BlockFile
from gare.common.dataset_file import read_dataset_file, read_shard, stored_picture
from gare.common.errors import InputError
from gare.common.redact import redact
from gare.common.spread import thin
from gare.common.storage import Folder
from gare.common.text import LONGEST_TEXT
from gare.config.prepare import BEFORE, UNSAID
from gare.data.cache import Cache, Held, hold
from gare.data.vectors import Embedded
from gare.schema import DATASET_FILE, SHARD_FOLDER

LIGHT = ("video_id", "split", "captions", "attributes", "timestamps_s", "uri")
"""Columns without frames, which take little space, in the order of SHARD."""

Belongs = Callable[[str, dict[str, str]], bool]
"""A function that decides if a row with this split and these attributes belongs."""


@dataclass(frozen=True)
class VideoInfo:
    """A video's row in a shard without its frames."""

    video_id: str
    uri: str
    captions: list[str]
    attributes: dict[str, str]


class Split:
    """Rows that belong together, in manifest order, with frames read on demand from memory-mapped files.

    ``embedded``: what frozen towers made of them, to be read instead; None if they are encoded in every step.
    """

    embedded: Embedded | None = None

    def __init__(
        self, folder: Path | str, name: str, tables: list[pa.Table], belongs: Belongs, held: Held | None = None
    ) -> None:
        self.folder, self.name = folder, name
        self._tables, self._held = tables, held
        self._where: list[tuple[int, int]] = []
        self.videos: list[VideoInfo] = []
        for number, table in enumerate(tables):
            light = table.select(["video_id", "uri", "split", "captions", "attributes"]).to_pylist()
            for row, values in enumerate(light):
                attributes = {name: _bounded(value) for name, value in values["attributes"] or [] if value is not None}
                if belongs(values["split"], attributes):
                    self._where.append((number, row))
                    self.videos.append(
                        VideoInfo(values["video_id"], values["uri"], [*map(_bounded, values["captions"])], attributes)
                    )

    def __len__(self) -> int:
        return len(self.videos)

    def with_captions(self, captions: Sequence[list[str]]) -> Split:
        """Return the same videos with other captions, one list per video."""
        other = copy(self)
        other.videos = [replace(video, captions=texts) for video, texts in zip(self.videos, captions, strict=True)]
        return other

    def with_embedded(self, embedded: Embedded) -> Split:
        """Return the same videos with embeddings to read instead of frames or captions."""
        other = copy(self)
        other.embedded = embedded
        return other

    def first(self, count: int) -> Split:
        """Return only its first videos."""
        other = copy(self)
        other.videos = self.videos[:count]
        return other

    def count(self, index: int) -> int:
        """Count the stored frames of one video."""
        table_number, row = self._where[index]
        return len(self._tables[table_number]["frames"][row])

    def pictures(self, index: int, picks: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the picked stored frames [H, W, 3] of one video; raw ones are views of the file."""
        table_number, row = self._where[index]
        one = self._tables[table_number].slice(row, 1)
        stored = one["frames"][0].values
        codec, height, width = (one[name][0].as_py() for name in ("frame_codec", "height", "width"))
        try:
            return [stored_picture(stored[i].as_buffer(), codec, height, width) for i in picks]
        except (OSError, ValueError) as error:
            raise self.damaged(index, str(error)) from None

    def frames(self, index: int, at_most: int) -> NDArray[np.uint8]:
        """Return frames [n, H, W, 3] of one video, n <= ``at_most``; more are thinned by linspace, ends kept."""
        return np.stack(self.pictures(index, thin(self.count(index), at_most)))

    def damaged(self, index: int, reason: str) -> InputError:
        """Build the error for a video with damaged frames."""
        return InputError(
            f"The frames of {self.videos[index].video_id!r} in {self.folder} are damaged ({reason}); "
            "run gare prepare again, into another folder."
        )

    def timestamps(self, index: int) -> list[float]:
        """Return the seconds of the stored frames since the first shown one of the file."""
        table_number, row = self._where[index]
        return list(self._tables[table_number]["timestamps_s"][row].as_py())

    def codec(self, index: int) -> str:
        """Return the name of the codec of one video's source, such as h264."""
        table_number, row = self._where[index]
        return str(self._tables[table_number]["source_codec"][row].as_py())


class ShardSet:
    """A folder made by ``gare prepare``, or its copy on this node (``gare.data.cache``).

    A copy stays in use as long as this or one of its splits exists. Raises InputError if the folder is not one, or
    unfinished, or its shards do not belong to its manifest.
    ``frames``: False to only count and check. No copy is made then: shards at an address are read in place when first
    needed, without the columns that hold frames.
    """

    def __init__(self, folder: str | Path, cache: Cache | None = None, *, frames: bool = True) -> None:
        place, self._cache = Folder.at(folder), cache or Cache()
        self._held = hold(place, self._cache) if frames and self._cache.wants(place) else None
        self._place = place if self._held is None else Folder.at(self._held.folder)
        self.folder = self._held.folder if self._held else Path(folder) if place.is_local else str(place)
        self.manifest = read_dataset_file(self._place)
        self.digest: str = self.manifest["digest"]
        if self._place.is_local:
            _ = self._tables  # read at once, so that damage is found now

    @cached_property
    def _tables(self) -> list[pa.Table]:
        entries = self.manifest["shards"]
        if self._place.is_local:
            return [self._open(entry) for entry in entries]
        with ThreadPoolExecutor(self._cache.threads) as pool:
            return list(pool.map(self._open, entries))

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """Return split name -> number of videos and captions in it."""
        return dict(self.manifest["splits"])

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the settings of ``prepare`` that made the shards, completed if they are of an older version."""
        return {**UNSAID, **BEFORE, **self.manifest["recipe"]}

    @property
    def side(self) -> int:
        """Return the shortest side of the stored frames, in pixels; both sides if they were cropped."""
        return int(self.recipe["crop"] or self.recipe["short_side"])

    @property
    def short_side(self) -> int:
        """Return the shorter side of a frame after resizing and before cropping, in pixels."""
        return int(self.recipe.get("short_side", self.side))

    @property
    def complete(self) -> bool:
        """Return True if every frame is stored that the recipe would store without a limit to their number.

        That holds if no video fills ``prepare.max_frames``, or if the videos that do are not cut off: by policy
        all_candidates, which notes what it cuts off, and by policy timestamps, which cuts off nothing.
        """
        full = self._full_rows()
        if not full:
            return True
        notes = self.manifest.get("totals", {}).get("notes")
        if notes is None or self.recipe.get("policy") not in ("all_candidates", "timestamps"):
            return False
        truncated = int(notes.get("truncated", 0))
        if truncated > full:
            raise InputError(
                f"{self.folder}/{DATASET_FILE} counts {truncated} truncated videos, but only {full} fill "
                "prepare.max_frames; run gare prepare again."
            )
        return truncated == 0

    def _full_rows(self) -> int:
        kept = "frames" if self._place.is_local else "timestamps_s"  # one of each per stored frame
        lengths = (pc.list_value_length(table[kept]) for table in self._tables)
        return sum(int(pc.sum(pc.greater_equal(n, self.recipe["max_frames"])).as_py() or 0) for n in lengths)

    def split(self, name: str, belongs: Belongs | None = None) -> Split:
        """Return the rows of a split, or under its name those that ``belongs`` selects; InputError if unknown."""
        if name not in self.splits:
            there = ", ".join(sorted(self.splits)) or "none"
            raise InputError(f"{self.folder} has no split {name!r}; its splits are: {there}.")
        return Split(self.folder, name, self._tables, belongs or (lambda split, _: split == name), self._held)

    def parts(self, name: str) -> Iterator[Split]:
        """Yield the rows of a split, a shard at a time, so that the caller need not hold all of them."""
        for number in range(len(self.manifest["shards"])):
            part = self.part(number, name)
            if len(part):
                yield part

    def part(self, number: int, name: str) -> Split:
        """Return the rows of a split that are in one shard; there may be none."""
        return Split(self.folder, name, [self._tables[number]], lambda split, _: split == name, self._held)

    def holding(self, splits: Collection[str]) -> list[str]:
        """Return the names of the files that hold videos of these splits."""
        tables = zip(self.manifest["shards"], self._tables, strict=True)
        return [
            entry["file"]
            for entry, table in tables
            if not set(splits).isdisjoint(pc.unique(table["split"]).to_pylist())
        ]

    def file(self, name: str) -> Split:
        """Return all rows of one file, whatever their split."""
        number = [entry["file"] for entry in self.manifest["shards"]].index(name)
        return Split(self.folder, name, [self._tables[number]], lambda *_: True, self._held)

    def rows(self) -> list[tuple[str, int, dict[str, str]]]:
        """Return split, number of captions and attributes of every video, in manifest order."""
        light = [table.select(["split", "captions", "attributes"]).to_pylist() for table in self._tables]
        return [(r["split"], len(r["captions"]), dict(r["attributes"] or [])) for rows in light for r in rows]

    def repeated(self) -> list[str]:
        """List the ids of videos that occur more than once, in two splits or twice in one."""
        ids = Counter(video_id for table in self._tables for video_id in table["video_id"].to_pylist())
        return [video_id for video_id, count in ids.items() if count > 1]

    def _open(self, entry: dict[str, Any]) -> pa.Table:
        name, known = f"{SHARD_FOLDER}/{entry['file']}", {"recipe_digest": self.manifest["recipe_digest"]}
        if self._place.is_local:
            return read_shard(self._place.local / name, rows=entry["rows"], **known)
        where = self._place.named(name)
        try:
            source = self._place.source(name)
        except (OSError, pa.ArrowException) as error:
            first = redact(str(error).partition("\n")[0])
            raise InputError(f"Cannot read the shard {where}: {first}. Run gare prepare again.") from None
        with source:
            blocks = pa.PythonFile(BlockFile(source), mode="r")
            return read_shard(blocks, rows=entry["rows"], name=where, columns=LIGHT, **known)


def _bounded(text: str) -> str:
    """Cut a text to the limit; shards from before the limit may exceed it."""
    return text[:LONGEST_TEXT]

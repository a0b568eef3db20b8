"""Reading prepared shards: memory-mapped, checked against their dataset manifest, one split at a time."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.schema import DATASET_FILE, RECIPE_KEY, SCHEMA_VERSION, SHARD, SHARD_FOLDER, VERSION_KEY

Belongs = Callable[[str, dict[str, str]], bool]
"""Whether a row with this split and these attributes belongs."""


@dataclass(frozen=True)
class VideoInfo:
    """What a shard row says of a video, without its frames."""

    video_id: str
    uri: str
    captions: list[str]
    attributes: dict[str, str]


class Split:
    """Rows that belong together, in manifest order, with frames read on demand from memory-mapped files."""

    def __init__(self, folder: Path, name: str, tables: list[pa.Table], belongs: Belongs) -> None:
        self.folder, self.name = folder, name
        self._tables = tables
        self._where: list[tuple[int, int]] = []
        self.videos: list[VideoInfo] = []
        for number, table in enumerate(tables):
            light = table.select(["video_id", "uri", "split", "captions", "attributes"]).to_pylist()
            for row, values in enumerate(light):
                attributes = dict(values["attributes"] or [])
                if belongs(values["split"], attributes):
                    self._where.append((number, row))
                    self.videos.append(VideoInfo(values["video_id"], values["uri"], values["captions"], attributes))

    def __len__(self) -> int:
        return len(self.videos)

    def frames(self, index: int, at_most: int) -> NDArray[np.uint8]:
        """Frames [n, H, W, 3] of one video, n <= ``at_most``; more stored ones are thinned by linspace, ends kept."""
        table_number, row = self._where[index]
        one = self._tables[table_number].slice(row, 1)
        stored = one["frames"][0].values
        height, width = one["height"][0].as_py(), one["width"][0].as_py()
        picks = range(len(stored))
        if len(stored) > at_most:
            picks = np.linspace(0, len(stored) - 1, at_most).astype(int).tolist()
        try:
            if one["frame_codec"][0].as_py() == "jpeg":
                return np.stack([_jpeg(stored[i].as_py(), (height, width, 3)) for i in picks])
            return np.stack([np.frombuffer(stored[i].as_buffer(), np.uint8).reshape(height, width, 3) for i in picks])
        except (OSError, ValueError) as error:
            raise InputError(
                f"The frames of {self.videos[index].video_id!r} in {self.folder} are damaged ({error}); "
                "run gare prepare again, into another folder."
            ) from None

    def timestamps(self, index: int) -> list[float]:
        """Seconds of the stored frames from the first shown one."""
        table_number, row = self._where[index]
        return list(self._tables[table_number]["timestamps_s"][row].as_py())


class ShardSet:
    """A folder made by ``gare prepare``.

    Raises InputError when it is no such folder, unfinished, or its shards do not belong to its manifest.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = _read_dataset_file(self.folder)
        self.digest: str = self.manifest["digest"]
        self._tables = [self._open(entry) for entry in self.manifest["shards"]]

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """Split name -> videos and captions in it."""
        return dict(self.manifest["splits"])

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings of ``prepare`` that made the shards."""
        return dict(self.manifest["recipe"])

    @property
    def image_size(self) -> int:
        """Side of the square stored frames, in pixels."""
        return int(self.manifest["recipe"]["crop"])

    def split(self, name: str, belongs: Belongs | None = None) -> Split:
        """The rows of a split, or under its name those that ``belongs`` picks; InputError when it is not there."""
        if name not in self.splits:
            there = ", ".join(sorted(self.splits)) or "none"
            raise InputError(f"{self.folder} has no split {name!r}; its splits are: {there}.")
        return Split(self.folder, name, self._tables, belongs or (lambda split, _: split == name))

    def rows(self) -> list[tuple[str, int, dict[str, str]]]:
        """Split, number of captions and attributes of every video, in manifest order."""
        light = [table.select(["split", "captions", "attributes"]).to_pylist() for table in self._tables]
        return [(r["split"], len(r["captions"]), dict(r["attributes"] or [])) for rows in light for r in rows]

    def repeated(self) -> list[str]:
        """The ids of videos that are there more than once, which would be in two splits or twice in one."""
        ids = Counter(video_id for table in self._tables for video_id in table["video_id"].to_pylist())
        return [video_id for video_id, count in ids.items() if count > 1]

    def _open(self, entry: dict[str, Any]) -> pa.Table:
        path = self.folder / SHARD_FOLDER / entry["file"]
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"Cannot read the shard {path}: {error}. Run gare prepare again.") from None
        metadata = table.schema.metadata or {}
        if not table.schema.equals(SHARD, check_metadata=False):
            raise InputError(f"The shard {path} does not have the columns of a shard; it was not made by gare prepare.")
        try:
            table.validate(full=True)  # unchecked offsets of a damaged file would take the process down
        except pa.ArrowInvalid as error:
            raise InputError(f"The shard {path} is damaged: {error}. Run gare prepare again.") from None
        if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION).encode():
            raise InputError(f"The shard {path} has another schema version; run gare prepare again.")
        if metadata.get(RECIPE_KEY) != self.manifest["recipe_digest"].encode():
            raise InputError(f"The shard {path} was decoded by another recipe than {self.folder / DATASET_FILE} says.")
        if table.num_rows != entry["rows"]:
            raise InputError(f"The shard {path} holds {table.num_rows} rows, not {entry['rows']} as recorded.")
        return table


def _read_dataset_file(folder: Path) -> dict[str, Any]:
    path = folder / DATASET_FILE
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the --out folder of gare prepare.")
    if not path.is_file():
        raise InputError(f"{folder} has no {DATASET_FILE}: gare prepare did not finish there. Run it again.")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; run gare prepare again.") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {version}; this software reads {SCHEMA_VERSION}.")
    if not _is_dataset(manifest):
        raise InputError(f"{path} is damaged; run gare prepare again.")
    return manifest


def _is_dataset(values: dict[str, Any]) -> bool:
    """Whether a dataset manifest holds what is read of it, in the right types."""
    kinds = {"digest": str, "recipe_digest": str, "recipe": dict, "splits": dict, "shards": list}
    if not all(isinstance(values.get(name), kind) for name, kind in kinds.items()):
        return False
    if not isinstance(values["recipe"].get("crop"), int):
        return False
    return all(isinstance(e, dict) and isinstance(e.get("file"), str) and "rows" in e for e in values["shards"])


def _jpeg(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        if (image.height, image.width) != shape[:2]:
            raise ValueError(f"a picture of {image.width} x {image.height} in place of {shape[1]} x {shape[0]}")
        return np.asarray(image.convert("RGB"))

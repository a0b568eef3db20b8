"""A dataset that may come from anyone: only ``dataset.json`` and the shards it lists."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gare.common.dataset_file import read_dataset_file, read_shard
from gare.common.errors import InputError
from gare.common.storage import Folder
from gare.config import PrepareConfig
from gare.schema import DATASET_FILE, SHARD_FOLDER
from pipelines.dataset.layout import ShardFile, read_recipe, recipe_digest

ENTRY_KINDS = {"file": str, "unit": int, "rows": int, "bytes": int, "sha256": str}


@dataclass(frozen=True)
class Dataset:
    """A folder with its checked ``dataset.json``, which includes ``recipe`` and ``shards``. Opens no shard."""

    place: Folder
    values: dict[str, Any]
    recipe: PrepareConfig
    shards: tuple[ShardFile, ...]

    @property
    def digest(self) -> str:
        """The digest of the data."""
        return str(self.values["digest"])

    @property
    def recipe_digest(self) -> str:
        """The digest of the recipe, which every shard carries."""
        return str(self.values["recipe_digest"])

    @property
    def rows(self) -> int:
        """Number of videos in all shards."""
        return sum(shard.rows for shard in self.shards)

    def name(self, shard: ShardFile) -> str:
        """Return a shard's name for messages."""
        return self.place.named(f"{SHARD_FOLDER}/{shard.file}")

    def table(self, shard: ShardFile, *, digest: bool = False) -> pa.Table:
        """Open a shard as ``read_shard`` does; local ones are memory-mapped. Raises InputError if it does not fit.

        ``digest``: also require the listed size and SHA-256.
        """
        name = self.name(shard)
        try:
            with self.place.source(f"{SHARD_FOLDER}/{shard.file}") as source:
                data = source.read_buffer()
        except FileNotFoundError:
            raise InputError(f"The shard {name} is missing.") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"Cannot read the shard {name}: {first}.") from None
        if digest and data.size != shard.bytes:
            raise InputError(f"The shard {name} has {data.size} bytes, not {shard.bytes} as recorded.")
        if digest and hashlib.sha256(data).hexdigest() != shard.sha256:
            raise InputError(f"The shard {name} has another SHA-256 than recorded: it was changed or is damaged.")
        return read_shard(pa.BufferReader(data), recipe_digest=self.recipe_digest, rows=shard.rows, name=name)


def open_dataset(place: Folder) -> Dataset:
    """Read a folder's ``dataset.json``. Raises InputError unless it is a dataset of this version of the software."""
    values = read_dataset_file(place)
    path = place.named(DATASET_FILE)
    try:
        recipe, lacking = read_recipe(values["recipe"])
        is_sound = recipe_digest(recipe, lacking) == values["recipe_digest"]
    except ValueError:
        is_sound = False
    if not is_sound:
        raise InputError(f"The recipe in {path} was changed, or written by another version of this software.")
    shards = values["shards"]
    if not all(type(entry.get(name)) is kind for entry in shards for name, kind in ENTRY_KINDS.items()):
        raise InputError(f"{path} is damaged: it does not give unit, rows, bytes and SHA-256 of every shard.")
    if len({entry["file"] for entry in shards}) < len(shards):
        raise InputError(f"{path} is damaged: it lists a shard twice.")
    listed = [ShardFile(**{key.name: entry[key.name] for key in fields(ShardFile)}) for entry in shards]
    return Dataset(place, values, recipe, tuple(listed))


def rows_in_brief(table: pa.Table) -> pa.Table:
    """Return the counted columns of a shard: split, codec, height, width, and the numbers of captions and frames."""
    return pa.table(
        {
            **{name: table[name] for name in ("split", "frame_codec", "height", "width")},
            "captions": pc.list_value_length(table["captions"]),
            "frames": pc.list_value_length(table["frames"]),
        }
    )


@dataclass
class Tally:
    """Figures of rows. ``splits``: videos and captions of each; ``codecs``, ``sizes``: rows by frame codec and size."""

    rows: int = 0
    frames: int = 0
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    codecs: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    def add(self, brief: pa.Table) -> None:
        """Count rows of ``rows_in_brief``."""
        for row in brief.to_pylist():
            self.rows += 1
            self.frames += row["frames"]
            split = self.splits.setdefault(row["split"], {"videos": 0, "captions": 0})
            split["videos"] += 1
            split["captions"] += row["captions"]
            self.codecs[row["frame_codec"]] += 1
            self.sizes[f"{row['width']} x {row['height']}"] += 1

"""Whether the rows of a shard make sense by themselves: frames, times and sizes, against the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gare.config import PrepareConfig
from gare.schema import SHARD
from pipelines.decode.picture import can_be_shape

LIGHT = [name for name in SHARD.names if name != "frames"]


def light_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows without their frames: in the place of ``frames``, the size in bytes of each."""
    sizes = [pc.binary_length(frames.values).to_pylist() for frames in table["frames"]]
    for row, frames in zip(table.select(LIGHT).to_pylist(), sizes, strict=True):
        yield {**row, "frames": frames}


def stored_problems(name: str, row: dict[str, Any], recipe: PrepareConfig) -> Iterator[str]:
    """Say what of a row of ``light_rows`` the recipe cannot have made, a sentence each; they start with ``name``."""
    count, times = len(row["frames"]), row["timestamps_s"]
    if not 1 <= count <= recipe.max_frames:
        yield f"{name} has {count} frames; the recipe stores 1 to {recipe.max_frames}."
    if len(times) != count:
        yield f"{name} has {count} frames, but {len(times)} timestamps."
    if None in times or not all(map(math.isfinite, times)) or any(a > b for a, b in pairwise(times)):
        yield f"{name}: its timestamps do not rise."
    if not can_be_shape(recipe, row["height"], row["width"]):
        yield f"{name}: its frames are {row['width']} x {row['height']}, which the recipe does not make."
    if row["frame_codec"] != recipe.storage:
        yield f"{name}: its frames are {row['frame_codec']}; the recipe says {recipe.storage}."
    elif recipe.storage == "raw" and any(size != row["height"] * row["width"] * 3 for size in row["frames"]):
        yield f"{name}: a frame is not of {row['width']} x {row['height']} pixels."

"""Whether the frames of a video fit a row of a shard."""

from __future__ import annotations

from typing import Final

from gare.config.prepare import PrepareConfig
from pipelines.decode.errors import DecodeError

ROW_BYTES: Final = 2**31 - 1
"""Most bytes of a stored row's frames: Arrow counts those of a binary column in 32 bits."""


def check_row(frames: int, height: int, width: int, recipe: PrepareConfig) -> None:
    """Raise DecodeError(too_many_bytes) where ``frames`` pictures of this size are more than a row may hold."""
    most, why = recipe.limits.memory_bytes, "prepare.limits.memory_bytes"
    if recipe.storage == "raw" and most > ROW_BYTES:
        most, why = ROW_BYTES, "a row of a shard, or set prepare.storage to jpeg"
    size = 3 * frames * height * width
    if size > most:
        raise DecodeError(
            "too_many_bytes",
            f"{frames} frames of {width} x {height} pixels or more are {size} bytes, and {most} are the most; lower "
            f"prepare.max_frames, prepare.short_side or prepare.crop to fit {why}.",
        )

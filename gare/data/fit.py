"""Whether shards hold what the settings take from them: exactly that, or an error that says what to do."""

from __future__ import annotations

from typing import Final

from gare.common.errors import ConfigError
from gare.config import Config
from gare.config.data import DataConfig
from gare.data.shards import ShardSet
from gare.model.pixels import Pixels

NESTED: Final = ("fps_linspace", "uniform")
"""Policies whose frames, thinned again, can be those of thinning once."""


def check_sampling(shards: ShardSet, config: Config) -> None:
    """Refuse to sample from stored frames what sampling the videos themselves would not give.

    ``data.sampling`` linspace is exact where as many frames are used as stored, where every candidate is stored
    (``ShardSet.complete``), and where thinning nests: (max_frames - 1) is a multiple of (frames - 1). random_segment
    draws from all candidates, so every one must be stored.
    """
    stored, used = int(shards.recipe["max_frames"]), config.data.frames
    policy = str(shards.recipe.get("policy", NESTED[0]))
    nested = [n for n in range(1, stored + 1) if n == stored or (policy in NESTED and _nests(stored, n))]
    if (config.data.sampling == "linspace" and used in nested) or shards.complete:
        return
    more = "with prepare.policy=all_candidates and a prepare.max_frames that no video exceeds"
    if policy != "all_candidates":
        more += ", or with a prepare.max_frames that no video reaches"
    if config.data.sampling != "linspace":
        raise ConfigError(
            f"data.sampling {config.data.sampling} draws from all candidates of a video, but the shards in "
            f"{shards.folder} store {stored} at most and some videos may have more. Prepare {more}; or set "
            "data.sampling=linspace."
        )
    choices = ", ".join(str(n) for n in nested)
    raise ConfigError(
        f"data.frames is {used}, but the shards in {shards.folder} hold {stored} frames of a video with more, and "
        f"{used} of those are not the {used} that would be taken from the video itself. With these shards data.frames "
        f"can be {choices}; or prepare with prepare.max_frames={used}, or {more}."
    )


def _nests(stored: int, used: int) -> bool:
    return used == 1 or (stored - 1) % (used - 1) == 0


def unlike_prepared(pixels: Pixels, short_side: int, data: DataConfig) -> str | None:
    """A sentence where frames were resized otherwise than the pictures CLIP learned from; None where they were not.

    With ``data.crop`` random, frames larger than the model's images are wanted, so their size is no difference.
    """
    return pixels.unlike_prepared(None if data.crop == "random" else short_side)


def check_random_crop(shards: ShardSet, config: Config, image_size: int) -> None:
    """Refuse ``data.crop`` random where the stored squares are just the model's images."""
    if config.data.crop == "random" and shards.recipe["crop"] == image_size:
        raise ConfigError(
            f"data.crop is random, but the shards in {shards.folder} hold squares of {image_size} pixels, just what "
            f"the CLIP model takes; prepare with prepare.crop=null, or with prepare.short_side and prepare.crop above "
            f"{image_size}."
        )

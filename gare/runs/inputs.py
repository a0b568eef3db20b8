"""Open the data and device that a run trains on, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gare.common.errors import ConfigError, InputError
from gare.common.files import canonical_json
from gare.config import Config
from gare.config.heads import HEADS, NO_INCREMENTS
from gare.data.augment import check_augment
from gare.data.batches import check_sampling
from gare.data.cache import Cache
from gare.data.samples import (
    Sample,
    epoch_batches,
    left_out,
    steps_per_epoch,
    test_cautions,
    training_split,
    with_noise,
)
from gare.data.shards import ShardSet, Split
from gare.evaluation.metrics.ranking import HIGHER_IS_BETTER
from gare.scoring.increment.cell import PairCell

LAYOUT = ("unit_videos", "shard_bytes", "limits")
"""Keys of ``prepare`` that decide how shards are cut and which videos are refused, not how a stored frame looks."""

TEMPORAL_AT_RANDOM = "The CLIP text tower does not fit the temporal transformer; its blocks start at random."


@dataclass(frozen=True)
class TrainingData:
    """The videos of a run and its number of steps. ``dev`` is None if nothing chooses the checkpoint.

    ``steps``: of the whole run; ``per_epoch``: of an epoch. ``replaced``: number of training captions taken from other
    videos (``data.caption_noise``).
    """

    shards: ShardSet
    train: Split
    dev: Split | None
    captions: list[int]
    steps: int
    per_epoch: int
    replaced: int = 0

    @property
    def digest(self) -> str:
        """Return the dataset's digest."""
        return self.shards.digest

    def batches(self, config: Config, epoch: int) -> list[list[Sample]]:
        """Return the global batches of an epoch."""
        train, data = config.train, config.data
        return epoch_batches(
            self.captions,
            train.global_batch,
            data.captions,
            seed=train.seed,
            epoch=epoch,
            repeat_videos=data.repeat_videos,
        )

    def remarks(self, config: Config) -> list[str]:
        """Return remarks for the user: captions replaced, batches left out, a dev split of one video."""
        said, bare = test_cautions(config) + head_remarks(config), self.captions.count(0)
        if bare:
            said.insert(0, f"{bare} of {len(self.train)} videos of {self.train.name} have no caption and are left out.")
        if self.replaced:
            said.append(
                f"{self.replaced} of {sum(self.captions)} training captions are those of other videos "
                f"(data.caption_noise = {config.data.caption_noise:g})."
            )
        if self.dev is not None:
            said += dev_remarks(self.dev.name, len(self.dev))
        missing = left_out(self.captions, config.train.global_batch, config.data.captions)
        if missing and not config.data.repeat_videos:
            said.append(
                f"{missing} batches of each epoch are not made, as they would hold two captions of one video; "
                "data.repeat_videos=true makes them."
            )
        return said


def open_data(config: Config, *, frames: bool = True) -> TrainingData:
    """Open the splits of the settings, and refuse what cannot be trained on. ``frames``: as in ``ShardSet``."""
    check_settings(config)
    return training_data(config, open_shards(config, frames=frames))


def check_settings(config: Config) -> None:
    """Refuse settings that no shards could be trained with."""
    check_select_by(config)
    check_increments(config)
    check_augment(config.data.augment)


def training_data(config: Config, shards: ShardSet) -> TrainingData:
    """Return the splits of the settings; ConfigError or InputError for shards that they cannot be trained on."""
    check_recipe(config, shards)
    check_sampling(shards, config)
    repeated = shards.repeated()
    if repeated:
        raise InputError(f"{shards.folder} holds the video {repeated[0]!r} more than once; run gare prepare again.")
    split = training_split(shards, config)
    dev = shards.split(config.data.dev_split) if config.protocol.dev == "held_out" else None
    if dev is not None:
        check_dev(dev.name, sum(len(video.captions) for video in dev.videos), str(shards.folder))
    name = config.data.positives_attribute
    if name is not None and not any(name in video.attributes for video in split.videos):
        raise ConfigError(f"data.positives_attribute is {name!r}, an attribute that no video of {split.folder} has.")
    split, replaced = with_noise(split, config.data.caption_noise, config.train.seed)
    captions = [len(video.captions) for video in split.videos]
    per_epoch = check_steps(config, captions, str(shards.folder))
    return TrainingData(shards, split, dev, captions, per_epoch * config.train.epochs, per_epoch, replaced)


def check_select_by(config: Config) -> None:
    """Refuse a metric that cannot choose a checkpoint."""
    if config.train.select_by not in HIGHER_IS_BETTER:
        known = ", ".join(HIGHER_IS_BETTER)
        raise ConfigError(
            f"train.select_by is {config.train.select_by!r}, which cannot choose a checkpoint; there are {known}."
        )


def check_increments(config: Config) -> None:
    """Refuse settings for which factorised increments would optimise something other than dense ones.

    With frames as context the pairs of a video share a mask of psi's dropout, with words those of a text.
    """
    if config.train.increments == "dense":
        return
    PairCell(config.model).check_factorises()
    shared = config.shared_anchor()
    tr, dd = config.objective.trust_region, config.objective.direction_diversity
    anchors = {"trust_region": (tr.anchor, tr.weight), "direction_diversity": (dd.anchor, dd.weight)}
    for name, (anchor, weight) in anchors.items():
        if weight and anchor == shared:
            raise ConfigError(
                f"objective.{name}.anchor is {shared}, whose pairs share one mask of psi's dropout where increments "
                "are factorised, so the term would measure something else: set train.increments to dense, or "
                "model.dropout to 0."
            )


def head_remarks(config: Config) -> list[str]:
    """Return remarks on settings that have no effect with this pair head."""
    if config.runtime.diagnose_every is None or HEADS[config.model.head].increments:
        return []
    return [f"{NO_INCREMENTS.format(config.model.head)}, so runtime.diagnose_every has nothing to measure."]


def check_dev(split: str, captions: int, where: str) -> None:
    """Refuse a dev split without captions."""
    if not captions:
        raise InputError(f"The split {split!r} of {where} has no captions to choose the checkpoint by.")


def dev_remarks(split: str, videos: int) -> list[str]:
    """Return remarks on a dev split of this size: every model finds a single video."""
    if videos > 1:
        return []
    said = (
        f"The split {split!r} has one video, which every checkpoint finds: it cannot choose one, and the first epoch's "
        "is kept as the best. Hold out more videos, or set protocol.dev=none, which keeps the last."
    )
    return [said]


def check_steps(config: Config, captions: Sequence[int], where: str) -> int:
    """Return the steps of an epoch over videos with these caption counts; InputError if they make no batch."""
    if not any(captions):
        raise InputError(
            f"No video of the split {config.data.train_split!r} of {where} has a caption: such videos can be indexed "
            "and searched, not trained on. data.train_split names the split to train on."
        )
    batch, data = config.train.global_batch, config.data
    per_epoch = steps_per_epoch(captions, batch, data.captions, repeat_videos=data.repeat_videos)
    if per_epoch == 0:
        repeating = left_out(captions, batch, data.captions)
        raise InputError(
            f"The split {data.train_split!r} of {where} has {sum(captions)} captions over {len(captions)} "
            f"videos, less than one batch of train.global_batch = {batch}"
            + (
                " different videos; data.repeat_videos=true lets a batch hold two captions of one."
                if repeating
                else "; lower it, or add videos."
            )
        )
    return per_epoch


def open_shards(config: Config, *, frames: bool = True) -> ShardSet:
    """Open the shards of the settings; ConfigError if none are named. ``frames``: as in ``ShardSet``."""
    if config.runtime.shards is None:
        raise ConfigError("No shards are named; give --shards DIR or set runtime.shards to a folder of gare prepare.")
    return ShardSet(config.runtime.shards, Cache.of(config.runtime), frames=frames)


def check_recipe(config: Config, shards: ShardSet) -> None:
    """Refuse shards of a recipe other than the experiment's, so that the records are true."""
    ours = config.prepare.model_dump(mode="json", exclude=set(LAYOUT))
    other = {name: shards.recipe[name] for name in ours if name in shards.recipe and shards.recipe[name] != ours[name]}
    if other:
        wanted = ", ".join(f"prepare.{name}={_shown(ours[name])}" for name in other)
        there = " ".join(f"--set prepare.{name}={_shown(value)}" for name, value in other.items())
        raise ConfigError(
            f"The shards in {shards.folder} were prepared by another recipe than these settings ({wanted}): prepare "
            f"again, or train with {there}."
        )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def choose_device(asked: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``; ConfigError if cuda is requested and absent."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, but torch sees no GPU here; use auto or cpu.")
    use_cuda = asked != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")

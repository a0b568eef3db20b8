"""Which videos a run trains on (``protocol.dev``): one rule for training, its plan and the evaluation afterwards."""

from __future__ import annotations

from collections.abc import Mapping

from gare.config import Config
from gare.data.shards import ShardSet, Split
from gare.schema import TAKEN_FROM


def trains_on(config: Config, split: str, attributes: Mapping[str, str]) -> bool:
    """Whether a run of these settings trains on a video with this split and these attributes.

    With ``protocol.dev`` none that is all of train: the train split, and what the dev split had taken from it. A dev
    split that comes with the benchmark stays out.
    """
    data = config.data
    if split == data.train_split:
        return True
    taken = attributes.get(TAKEN_FROM) == data.train_split
    return config.protocol.dev == "none" and split == data.dev_split and taken


def training_split(shards: ShardSet, config: Config) -> Split:
    """The videos that are trained on, in manifest order; InputError when there is no train split."""
    return shards.split(config.data.train_split, belongs=lambda split, attributes: trains_on(config, split, attributes))


def test_cautions(config: Config) -> list[str]:
    """Say what ``protocol.test`` at used means for every figure of such a run, in a sentence; nothing otherwise."""
    says = (
        "The run was free to train on the test split or to choose its checkpoint by it (protocol.test is used), so its "
        "figures on test say little about new videos."
    )
    return [says] if config.protocol.test == "used" else []


def trained_on(config: Config, split: Split) -> int:
    """How many videos of a split a run of these settings trained on: figures on those say little about new ones."""
    return sum(trains_on(config, split.name, video.attributes) for video in split.videos)

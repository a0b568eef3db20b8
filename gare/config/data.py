"""Settings of the batches made from shards."""

from __future__ import annotations

from typing import Literal

from gare.config.base import Section, key


class DataConfig(Section):
    """How a stored row becomes a training sample."""

    frames: int = key(12, "frames per video in a batch; the shards must hold at least as many", unit="frames", ge=1)
    sampling: Literal["linspace", "random_segment"] = key(
        "linspace",
        "of more stored frames: evenly by linspace, or one drawn from each of `frames` equal segments in training "
        "and their middles in evaluation",
    )
    crop: Literal["centre", "random"] = key(
        "centre", "of frames stored larger than the model takes: the centre, or in training a place drawn per clip"
    )
    words: int = key(32, "token positions per text, start and end included", unit="tokens", ge=3)
    captions: Literal["one_per_video", "all"] = key(
        "all", "an epoch visits every caption of a video, or one drawn by the seed"
    )
    train_split: str = key("train", "split that is trained on")
    dev_split: str = key("dev", "split the checkpoint is chosen on; never the test split")

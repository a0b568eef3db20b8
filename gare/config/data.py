"""Settings of the batches made from shards."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from gare.config.base import Section, key


class DataConfig(Section):
    """How a stored row becomes a training sample."""

    frames: int = key(
        12, "frames per video in a batch; the shards must hold at least as many", unit="frames", ge=1, le=2**16
    )
    sampling: Literal["linspace", "random_segment"] = key(
        "linspace",
        "of more stored frames: evenly by linspace, or one drawn from each of `frames` equal segments in training "
        "and their middles in evaluation",
    )
    crop: Literal["centre", "random"] = key(
        "centre", "of frames stored larger than the model takes: the centre, or in training a place drawn per clip"
    )
    words: int = key(32, "token positions per text, start (if any) and end included", unit="tokens", ge=3, le=2**16)
    captions: Literal["one_per_video", "all"] = key(
        "all", "an epoch visits every caption of a video, or one drawn by the seed"
    )
    repeat_videos: bool = key(
        False, "with captions all, the last batches may hold two captions of one video; else such batches are not made"
    )
    known_positives: Literal["none", "same_video", "attribute"] = key(
        "none",
        "pairs of a batch known to match besides the diagonal, left out of the negatives: none as published; a video's "
        "other captions; or also those of videos with the same value of positives_attribute",
    )
    positives_attribute: str | None = key(
        None, "attribute that near-duplicates share; a video without it matches its own captions only"
    )
    caption_noise: float = key(
        0.0, "share of the training captions replaced by captions of other videos, to measure robustness", ge=0, le=1
    )
    augment: Literal["none", "rand"] = key(
        "none",
        "rand: 4 random operations of magnitude 7 per clip in training, the same on all its frames; needs "
        "gare-ray[augment]",
    )
    train_split: str = key("train", "split that is trained on; not the test split (protocol.test)")
    dev_split: str = key("dev", "split the checkpoint is chosen on; not the test split (protocol.test)")

    @model_validator(mode="after")
    def _attribute_is_named(self) -> Self:
        if (self.known_positives == "attribute") != (self.positives_attribute is not None):
            raise ValueError("data.known_positives=attribute and data.positives_attribute=NAME go together")
        return self

"""Padded batches of frames and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.data.order import Sample
from gare.data.shards import ShardSet, Split
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer

NO_TOKENIZER = "The model has no tokenizer, so captions cannot be read; save one beside its CLIP weights."


@dataclass(frozen=True)
class Batch:
    """frames uint8 [B, F, 3, H, W], frame_mask bool [B, F], token_ids int64 and token_mask bool [B, W]."""

    frames: Tensor
    frame_mask: Tensor
    token_ids: Tensor
    token_mask: Tensor
    video_ids: list[str]


def load_frames(split: Split, indices: Sequence[int], at_most: int) -> tuple[Tensor, Tensor]:
    """Frames [V, F, 3, H, W] (uint8) and mask [V, F] of videos of a split, padded with zeros to F = ``at_most``."""
    clips = [split.frames(index, at_most) for index in indices]
    height, width = clips[0].shape[1:3]
    frames = np.zeros((len(clips), at_most, height, width, 3), np.uint8)
    mask = np.zeros((len(clips), at_most), bool)
    for row, clip in enumerate(clips):
        frames[row, : len(clip)] = clip
        mask[row, : len(clip)] = True
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3), torch.from_numpy(mask)


def make_batch(split: Split, samples: Sequence[Sample], tokenizer: Tokenizer, config: Config) -> Batch:
    """The batch of some (video, caption) samples of a split."""
    frames, mask = load_frames(split, [video for video, _ in samples], config.data.frames)
    videos = [split.videos[video] for video, _ in samples]
    texts = [video.captions[caption] for video, (_, caption) in zip(videos, samples, strict=True)]
    ids, token_mask = tokenizer(texts, config.data.words)
    return Batch(frames, mask, ids, token_mask, [video.video_id for video in videos])


def check_fit(model: GareModel, shards: ShardSet, config: Config) -> Tokenizer:
    """The model's tokenizer, after checking that shards and model fit together.

    Raises ConfigError or InputError with what does not fit and what to change.
    """
    check_sizes(model, shards.image_size, f"The shards in {shards.folder} hold", config)
    if model.tokenizer is None:
        raise InputError(NO_TOKENIZER)
    return model.tokenizer


def check_sizes(model: GareModel, side: int, holder: str, config: Config) -> None:
    """ConfigError where frames of ``side`` pixels, which ``holder`` names, or ``data.words`` do not fit the model."""
    if side != model.image_size:
        raise ConfigError(
            f"{holder} {side}-pixel frames, but the CLIP model takes {model.image_size}; prepare with "
            f"--set prepare.crop={model.image_size}."
        )
    positions = int(model.clip.config.text_config.max_position_embeddings)
    if config.data.words > positions:
        raise ConfigError(f"data.words is {config.data.words}, but the CLIP model has {positions} text positions.")

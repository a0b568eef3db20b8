"""Padded batches of frames and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.data.fit import check_sampling
from gare.data.order import Sample
from gare.data.shards import ShardSet, Split
from gare.data.views import View, draws
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


def load_frames(
    split: Split, indices: Sequence[int], view: View, random: Sequence[np.random.Generator] | None = None
) -> tuple[Tensor, Tensor]:
    """Frames [V, F, 3, S, S] (uint8) and mask [V, F] of videos of a split, padded with zeros to F = ``data.frames``.

    S: the view's size. ``random``: the draws of each video in training; None in evaluation.
    """
    clips = [view.clip(split, index, random[row] if random else None) for row, index in enumerate(indices)]
    frames = np.zeros((len(clips), view.data.frames, view.size, view.size, 3), np.uint8)
    mask = np.zeros((len(clips), view.data.frames), bool)
    for row, clip in enumerate(clips):
        frames[row, : len(clip)] = clip
        mask[row, : len(clip)] = True
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3), torch.from_numpy(mask)


def make_batch(
    split: Split,
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    config: Config,
    image_size: int,
    *,
    epoch: int | None = None,
) -> Batch:
    """The batch of some (video, caption) samples of a split, as they are in an epoch of training.

    ``epoch``: None takes what evaluation takes.
    """
    random = None if epoch is None else [draws(config.train.seed, epoch, sample) for sample in samples]
    frames, mask = load_frames(split, [video for video, _ in samples], View(config.data, image_size), random)
    videos = [split.videos[video] for video, _ in samples]
    texts = [video.captions[caption] for video, (_, caption) in zip(videos, samples, strict=True)]
    ids, token_mask = tokenizer(texts, config.data.words)
    return Batch(frames, mask, ids, token_mask, [video.video_id for video in videos])


def check_fit(model: GareModel, shards: ShardSet, config: Config) -> Tokenizer:
    """The model's tokenizer, after checking that shards and model fit together.

    Raises ConfigError or InputError with what does not fit and what to change.
    """
    check_sizes(model, shards.side, f"The shards in {shards.folder} hold", config)
    check_sampling(shards, config)
    if model.tokenizer is None:
        raise InputError(NO_TOKENIZER)
    return model.tokenizer


def check_sizes(model: GareModel, side: int, holder: str, config: Config) -> None:
    """ConfigError where frames of ``side`` pixels, which ``holder`` names, or ``data.words`` do not fit the model.

    Larger frames fit: they are cropped.
    """
    if side < model.image_size:
        raise ConfigError(
            f"{holder} {side}-pixel frames, but the CLIP model takes {model.image_size}; prepare with "
            f"--set prepare.crop={model.image_size} --set prepare.short_side={model.image_size}."
        )
    positions = int(model.clip.config.text_config.max_position_embeddings)
    if config.data.words > positions:
        raise ConfigError(f"data.words is {config.data.words}, but the CLIP model has {positions} text positions.")

"""Padded batches of frames and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.files import digest_of
from gare.config import Config
from gare.config.data import DataConfig
from gare.data.fit import check_sampling
from gare.data.order import Sample
from gare.data.shards import ShardSet, Split, VideoInfo
from gare.data.views import View, draws
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer

NO_TOKENIZER = "The model has no tokenizer, so captions cannot be read; save one beside its CLIP weights."


@dataclass(frozen=True)
class Batch:
    """frames uint8 [B, F, 3, H, W], frame_mask bool [B, F], token_ids int64 and token_mask bool [B, W].

    ``groups`` int64 [B]: samples with the same id are known to match each other (``data.known_positives``), or None.
    """

    frames: Tensor
    frame_mask: Tensor
    token_ids: Tensor
    token_mask: Tensor
    video_ids: list[str]
    groups: Tensor | None = None


def load_frames(
    split: Split,
    indices: Sequence[int],
    view: View,
    random: Sequence[np.random.Generator] | None = None,
    *,
    workers: Executor | None = None,
    pinned: bool = False,
) -> tuple[Tensor, Tensor]:
    """Frames [V, F, 3, S, S] (uint8) and mask [V, F] of videos of a split, padded with zeros to F = ``data.frames``.

    S: the view's size. ``random``: the draws of each video in training; None in evaluation. ``workers``: threads that
    share the videos. ``pinned``: in page-locked memory, from which copies to a GPU need not be waited for.
    """
    shape = (len(indices), view.data.frames, view.size, view.size, 3)
    frames = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    mask = np.zeros(shape[:2], bool)
    array = frames.numpy()

    def fill(row: int) -> None:
        squares = view.squares(split, indices[row], random[row] if random else None)
        # Straight from the file's pages into the batch; numpy lets go of the GIL meanwhile.
        np.stack(squares, out=array[row, : len(squares)])
        array[row, len(squares) :] = 0
        mask[row, : len(squares)] = True

    for _ in map(fill, range(len(indices))) if workers is None else workers.map(fill, range(len(indices))):
        pass
    return frames.permute(0, 1, 4, 2, 3), torch.from_numpy(mask)


def make_batch(
    split: Split,
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    config: Config,
    image_size: int,
    *,
    epoch: int | None = None,
    workers: Executor | None = None,
    pinned: bool = False,
) -> Batch:
    """The batch of some (video, caption) samples of a split, as they are in an epoch of training.

    ``epoch``: None takes what evaluation takes. ``workers`` and ``pinned``: see ``load_frames``.
    """
    random = None if epoch is None else [draws(config.train.seed, epoch, sample) for sample in samples]
    view = View(config.data, image_size)
    frames, mask = load_frames(split, [video for video, _ in samples], view, random, workers=workers, pinned=pinned)
    videos = [split.videos[video] for video, _ in samples]
    texts = [video.captions[caption] for video, (_, caption) in zip(videos, samples, strict=True)]
    ids, token_mask = tokenizer(texts, config.data.words)
    groups = None if config.data.known_positives == "none" else torch.tensor([group(v, config.data) for v in videos])
    return Batch(frames, mask, ids, token_mask, [video.video_id for video in videos], groups)


def group(video: VideoInfo, data: DataConfig) -> int:
    """The id of what a video is known to match: itself, or all with the same ``data.positives_attribute``.

    Ids are digests, so that they say the same on every rank and in every batch.
    """
    shared = video.attributes.get(data.positives_attribute or "")
    named = ["video", video.video_id] if shared is None else ["group", shared]
    return int(digest_of(named)[:15], 16)


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

"""Make padded batches of frames and tokens: choose a sample's stored frames, crop a square of each, check the fit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.files import digest_of
from gare.common.spread import segment_middles, segments, thin
from gare.config import Config
from gare.config.experiment import DataConfig
from gare.data.samples import Sample
from gare.data.shards import ShardSet, Split, VideoInfo
from gare.model.gare import GareModel
from gare.model.pixels import Pixels
from gare.model.tokenizer import Tokenizer

NO_TOKENIZER = "The model has no tokenizer, so captions cannot be read; save one with its CLIP weights."


VIEW_STREAM: Final = 0x76696577
"""Separates these draws from others made from the same seed and epoch."""

NESTED: Final = ("fps_linspace", "uniform")
"""Policies for which thinning twice can give the same frames as thinning once."""


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
    """Load frames [V, F, 3, S, S] (uint8) and mask [V, F] of a split's videos, zero-padded to F = ``data.frames``.

    S: the view's size. ``random``: the draws of each video in training; None in evaluation. ``workers``: threads that
    share the videos. ``pinned``: use page-locked memory, which can be copied to a GPU asynchronously.
    """
    shape = (len(indices), view.data.frames, view.size, view.size, 3)
    frames = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    mask = np.zeros(shape[:2], bool)
    array = frames.numpy()

    def fill(row: int) -> None:
        squares = view.squares(split, indices[row], random[row] if random else None)
        # Copied directly from the file's pages into the batch; numpy releases the GIL meanwhile.
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
    """Make the batch of some (video, caption) samples of a split for an epoch of training.

    ``epoch``: None for evaluation, without draws. ``workers`` and ``pinned``: see ``load_frames``.
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
    """Return the id of a video's known matches: itself, or all with the same ``data.positives_attribute``.

    Ids are digests, so that they agree between ranks and batches.
    """
    shared = video.attributes.get(data.positives_attribute or "")
    named = ["video", video.video_id] if shared is None else ["group", shared]
    return int(digest_of(named)[:15], 16)


def check_fit(model: GareModel, shards: ShardSet, config: Config) -> Tokenizer:
    """Return the model's tokenizer, after checking that shards and model fit together.

    Raises ConfigError or InputError that says what does not fit and what to change.
    """
    check_sizes(model, shards.side, f"The shards in {shards.folder} hold", config)
    check_sampling(shards, config)
    if model.tokenizer is None:
        raise InputError(NO_TOKENIZER)
    return model.tokenizer


def check_sizes(model: GareModel, side: int, holder: str, config: Config) -> None:
    """Raise ConfigError if frames of ``side`` pixels, which ``holder`` names, or ``data.words`` do not fit the model.

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


@dataclass(frozen=True)
class View:
    """A view of a stored video: at most ``data.frames`` frames, and of each a square of ``size`` pixels.

    Draws are made in training only: ``random`` is None in evaluation, which is deterministic.
    """

    data: DataConfig
    size: int

    def clip(self, split: Split, index: int, random: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Return frames [n, size, size, 3] of one video of a split."""
        return np.stack(self.squares(split, index, random))

    def squares(self, split: Split, index: int, random: np.random.Generator | None = None) -> list[NDArray[np.uint8]]:
        """Return the frames of ``clip`` as a list; raw stored ones are views of the file, not copied yet."""
        pictures = split.pictures(index, self.picks(split.count(index), random))
        height, width = pictures[0].shape[:2]
        if min(height, width) < self.size:
            raise split.damaged(index, f"{width} x {height} pixels, and {self.size} are needed")
        top, left = self._corner(height, width, random)
        return [picture[top : top + self.size, left : left + self.size] for picture in pictures]

    def picks(self, stored: int, random: np.random.Generator | None = None) -> list[int]:
        """Return the places of the frames to use among ``stored`` ones."""
        if self.data.sampling == "linspace":
            return thin(stored, self.data.frames)
        if random is None:
            return segment_middles(stored, self.data.frames)
        return [int(random.integers(part.start, part.stop)) for part in segments(stored, self.data.frames)]

    def _corner(self, height: int, width: int, random: np.random.Generator | None) -> tuple[int, int]:
        """Return top and left of the square, the same for all frames of a clip."""
        free = height - self.size, width - self.size
        if random is None or self.data.crop == "centre":
            return round(free[0] / 2), round(free[1] / 2)
        return int(random.integers(free[0] + 1)), int(random.integers(free[1] + 1))


def draws(seed: int, epoch: int, sample: Sample, stream: int = VIEW_STREAM) -> np.random.Generator:
    """Return the random numbers of one sample in one epoch: the same for any number of workers, and after a resume."""
    return np.random.default_rng([seed, epoch, *sample, stream])


def check_sampling(shards: ShardSet, config: Config) -> None:
    """Refuse to sample stored frames if that differs from sampling the videos themselves.

    ``data.sampling`` linspace is exact if as many frames are used as stored, if every candidate is stored
    (``ShardSet.complete``), or if thinning nests: (max_frames - 1) is a multiple of (frames - 1). random_segment draws
    from all candidates, so every one must be stored.
    """
    stored, used = int(shards.recipe["max_frames"]), config.data.frames
    policy = str(shards.recipe.get("policy", NESTED[0]))
    nested = [
        n for n in range(1, stored + 1) if n == stored or (policy in NESTED and (n == 1 or (stored - 1) % (n - 1) == 0))
    ]
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


def unlike_prepared(pixels: Pixels, short_side: int, data: DataConfig) -> str | None:
    """Describe in a sentence how the frames' resizing differs from that of CLIP's training; None if it does not.

    With ``data.crop`` random, frames are meant to be larger than the model's images, so their size does not count.
    """
    return pixels.unlike_prepared(None if data.crop == "random" else short_side)


def check_random_crop(shards: ShardSet, config: Config, image_size: int) -> None:
    """Refuse ``data.crop`` random if the stored squares have the size of the model's images."""
    if config.data.crop == "random" and shards.recipe["crop"] == image_size:
        raise ConfigError(
            f"data.crop is random, but the shards in {shards.folder} hold squares of {image_size} pixels, just what "
            f"the CLIP model takes; prepare with prepare.crop=null, or with prepare.short_side and prepare.crop above "
            f"{image_size}."
        )

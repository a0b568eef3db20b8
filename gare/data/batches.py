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
from gare.data.vectors import Vectors
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
    With a frozen image tower frames may be its embeddings, float32 [B, F, D]; ``texts`` float32 [B, 1 + W, D], of a
    frozen text tower: each text and its words (none if the pair head reads none), or None.
    ``valid``: the number of valid frames of each clip, if known without asking the device for it.
    """

    frames: Tensor
    frame_mask: Tensor
    token_ids: Tensor
    token_mask: Tensor
    video_ids: list[str]
    groups: Tensor | None = None
    texts: Tensor | None = None
    valid: list[int] | None = None


def encode_batch(model: GareModel, batch: Batch, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """Return texts [b, D], words [b, W, D] and frames [b, F, D] of some rows of a batch, on the model's device.

    Words are [b, 0, D] if a frozen tower made the texts and the pair head reads no words.
    """
    device = model.clip.logit_scale.device
    if batch.texts is None:
        text, words = model.encode_texts(batch.token_ids[rows].to(device), batch.token_mask[rows].to(device))
    else:
        text, words = batch.texts[rows, 0].to(device), batch.texts[rows, 1:].to(device)
    valid = None if batch.valid is None else sum(batch.valid[rows])
    return text, words, model.encode_clips(batch.frames[rows].to(device), batch.frame_mask[rows].to(device), valid)


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
    share the videos. ``pinned``: use page-locked memory, which can be copied to a GPU asynchronously. Where the split
    has embeddings, they are loaded in place of frames: [V, F, D] (float32).
    """
    if split.embedded is not None and split.embedded.frames is not None:
        return _load_embedded(split, split.embedded.frames, indices, view, random, pinned=pinned)
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


def _load_embedded(
    split: Split,
    vectors: Vectors,
    indices: Sequence[int],
    view: View,
    random: Sequence[np.random.Generator] | None,
    *,
    pinned: bool,
) -> tuple[Tensor, Tensor]:
    frames = torch.zeros(len(indices), view.data.frames, vectors.dim, pin_memory=pinned)
    mask = torch.zeros(frames.shape[:2], dtype=torch.bool)
    for row, index in enumerate(indices):
        picks = view.among_kept(split.count(index), random[row] if random else None)
        frames.numpy()[row, : len(picks)] = vectors[split.videos[index].video_id][picks]
        mask[row, : len(picks)] = True
    return frames, mask


def _load_texts(vectors: Vectors, texts: Sequence[str], words: int) -> Tensor:
    """Load embeddings [B, 1 + W, D] of texts and their words, zero-padded."""
    made = torch.zeros(len(texts), 1 + words, vectors.dim)
    for row, text in enumerate(texts):
        found = vectors[text]
        made.numpy()[row, : len(found)] = found
    return made


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
    made = None
    if split.embedded is not None and split.embedded.texts is not None:
        made = _load_texts(split.embedded.texts, texts, config.data.words if config.model.reads_words else 0)
    names, valid = [video.video_id for video in videos], mask.sum(dim=1).tolist()
    return Batch(frames, mask, ids, token_mask, names, groups, made, valid)


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
        return self._cut(split, index, self.picks(split.count(index), random), random)

    def _cut(
        self, split: Split, index: int, picks: Sequence[int], random: np.random.Generator | None
    ) -> list[NDArray[np.uint8]]:
        pictures = split.pictures(index, picks)
        height, width = pictures[0].shape[:2]
        if min(height, width) < self.size:
            raise split.damaged(index, f"{width} x {height} pixels, and {self.size} are needed")
        top, left = self._corner(height, width, random)
        return [picture[top : top + self.size, left : left + self.size] for picture in pictures]

    def kept(self, stored: int) -> list[int]:
        """Return which of a video's stored frames are ever used."""
        return thin(stored, self.data.frames) if self.data.sampling == "linspace" else list(range(stored))

    def among_kept(self, stored: int, random: np.random.Generator | None = None) -> list[int]:
        """Return the positions among the ``kept`` frames of those that ``squares`` takes with the same draws."""
        kept = self.kept(stored)
        return [kept.index(pick) for pick in self.picks(stored, random)]

    def kept_squares(self, split: Split, index: int) -> list[NDArray[np.uint8]]:
        """Return the centre squares of the ``kept`` frames of one video."""
        return self._cut(split, index, self.kept(split.count(index)), None)

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

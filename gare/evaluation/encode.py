"""Encode a split as vectors and score all its pairs, in blocks of bounded memory and shared over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from gare.config.experiment import DataConfig
from gare.data.batches import View, load_frames
from gare.data.shards import Split
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.world import SINGLE, World
from gare.scoring.factors import Texts, Videos
from gare.scoring.gallery import score_all

FrameChoice = Literal["all", "middle"]
"""``middle`` replaces every frame of a clip by its middle one, which removes whatever needs time."""


@torch.no_grad()
def encode_texts(
    model: GareModel, tokenizer: Tokenizer, texts: Sequence[str], words: int, batch: int, world: World = SINGLE
) -> Texts:
    """Encode texts, each rank its part; all ranks get the whole. Word vectors that no score reads are dropped."""
    kept = words if model.config.reads_words else 0
    device = model.clip.logit_scale.device

    def block(start: int, stop: int) -> tuple[Tensor, ...]:
        ids, mask = (x.to(device) for x in tokenizer(texts[start:stop], words))
        text, word_vectors = model.encode_texts(ids, mask)
        return text, word_vectors[:, :kept].clone(), mask[:, :kept]

    return Texts(*in_parts(len(texts), batch, block, world))


@torch.no_grad()
def encode_videos(
    model: GareModel,
    split: Split,
    data: DataConfig,
    batch: int,
    world: World = SINGLE,
    choice: FrameChoice = "all",
    *,
    videos: Sequence[int] | None = None,
) -> Videos:
    """Encode every video of a split, or the numbered ones; each rank encodes its part, and all ranks get the whole."""
    device = model.clip.logit_scale.device
    view = View(data, model.image_size)
    numbers = range(len(split)) if videos is None else videos

    def block(start: int, stop: int) -> tuple[Tensor, ...]:
        clips, mask = load_clips(split, numbers[start:stop], view, choice)
        valid, mask = int(mask.sum()), mask.to(device)
        return model.encode_clips(clips.to(device), mask, valid), mask

    return Videos(*in_parts(len(numbers), batch, block, world))


@torch.no_grad()
def encode_twice(
    model: GareModel, split: Split, data: DataConfig, batch: int, videos: Sequence[int]
) -> tuple[Videos, Videos]:
    """Encode numbered videos of a split as ``encode_videos`` does.

    Returns their frame vectors from before the temporal transformer, and those after it.
    """
    device, view = model.clip.logit_scale.device, View(data, model.image_size)

    def block(start: int, stop: int) -> tuple[Tensor, ...]:
        clips, mask = load_clips(split, videos[start:stop], view, "all")
        valid, mask = int(mask.sum()), mask.to(device)
        embedded = model.embed_clips(clips.to(device), mask, valid)
        return embedded, model.temporal(embedded, mask), mask

    before, after, mask = in_parts(len(videos), batch, block)
    return Videos(before, mask), Videos(after, mask)


def load_clips(split: Split, videos: Sequence[int], view: View, choice: FrameChoice) -> tuple[Tensor, Tensor]:
    """Load frames [V, F, 3, H, W] (uint8) and mask [V, F] of some videos for evaluation."""
    clips, mask = load_frames(split, videos, view)
    if choice == "middle":
        middle = mask.sum(dim=1) // 2
        clips = clips[torch.arange(len(clips)), middle][:, None].expand_as(clips)
    return clips, mask


@torch.no_grad()
def score_pairs(model: GareModel, texts: Texts, videos: Videos, rows: int, world: World = SINGLE) -> Tensor:
    """Return all cosines [N, V] in float32; each rank scores its texts, and all ranks get the whole.

    Uses the head's factors (the method's section 6), in blocks whose memory depends on neither N nor V. A head without
    factors scores ``rows`` texts at a time itself.
    """
    head = model.head

    def block(start: int, stop: int) -> tuple[Tensor, ...]:
        part = slice(start, stop)
        own = texts[part]
        return (score_all(head, own.text, videos.frames, videos.frame_mask, own.words, own.word_mask),)

    batch = rows if head.factors() is None else max(1, len(texts.text))
    return in_parts(len(texts.text), batch, block, world)[0]


def in_parts(
    count: int, batch: int, block: Callable[[int, int], tuple[Tensor, ...]], world: World = SINGLE
) -> tuple[Tensor, ...]:
    """Compute rows [0, count) in blocks, each rank an equal part; gather them and cut the padding."""
    per_rank = -(-count // world.size)
    start = min(world.rank * per_rank, count - 1)
    stop = max(min((world.rank + 1) * per_rank, count), start + 1)
    blocks = [block(at, min(at + batch, stop)) for at in range(start, stop, batch)]
    parts = [torch.cat(column) for column in zip(*blocks, strict=True)]
    if world.size == 1:
        return tuple(parts)
    whole = []
    for part in parts:
        padded = part.new_zeros(per_rank, *part.shape[1:])
        padded[: stop - start] = part
        whole.append(world.gather_constant(padded)[:count])
    return tuple(whole)

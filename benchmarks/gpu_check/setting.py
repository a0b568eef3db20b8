"""What the stages work on: a device, sizes, models without files, batches of noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common.random_clip import random_clip
from transformers import CLIPConfig

from gare.config import Config
from gare.config.tree import load_config
from gare.data.batches import Batch
from gare.model import GareModel

TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = 16


@dataclass(frozen=True)
class Sizes:
    """``batch`` x ``frames`` of ``side`` pixels for the timed step; ``videos`` of the gallery; ``matrix``: its side."""

    batch: int
    frames: int
    side: int
    videos: int
    matrix: int
    captions: int
    published: bool


FULL = Sizes(batch=128, frames=12, side=224, videos=1000, matrix=8192, captions=5, published=True)
SMALL = Sizes(batch=4, frames=2, side=32, videos=24, matrix=128, captions=6, published=False)


def settings(*changes: str) -> Config:
    """Return settings of the small model: 16 pairs of 4 frames, nothing tracked."""
    own = ("train.global_batch=16", "data.frames=4", f"data.words={WORDS}", "model.temporal_layers=2")
    rates = ("train.lr_clip=1e-4", "train.lr_new=1e-3", "runtime.tracking=false")
    return load_config(None, [*own, *rates, *changes])


def small_model(config: Config, device: torch.device) -> GareModel:
    """Return a seeded model of random weights."""
    torch.manual_seed(config.train.seed)
    ids = {"vocab_size": 300, "max_position_embeddings": 40, "eos_token_id": 299, "bos_token_id": 298}
    clip = CLIPConfig(
        text_config=TOWER | ids | {"projection_dim": 128, "pad_token_id": 0},
        vision_config=TOWER | {"image_size": 32, "patch_size": 8, "projection_dim": 128},
        projection_dim=128,
    )
    return GareModel(random_clip(clip), config.model).to(device)


def noise(config: Config, device: torch.device) -> Batch:
    """Return a batch of the small model; half of the clips are shorter than the others."""
    drawn = torch.Generator().manual_seed(1)
    rows, frames = config.train.global_batch, config.data.frames
    valid = [frames if row % 2 else max(1, frames // 2) for row in range(rows)]
    ids = torch.randint(1, 298, (rows, WORDS), generator=drawn)
    ids[:, -1] = 299
    return Batch(
        frames=torch.randint(0, 256, (rows, frames, 3, 32, 32), generator=drawn, dtype=torch.uint8).to(device),
        frame_mask=(torch.arange(frames) < torch.tensor(valid)[:, None]).to(device),
        token_ids=ids.to(device),
        token_mask=torch.ones(rows, WORDS, dtype=torch.bool, device=device),
        video_ids=[str(row) for row in range(rows)],
        valid=valid,
    )

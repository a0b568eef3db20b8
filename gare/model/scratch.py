"""Make a small CLIP from scratch, for corpora and machines that have none, and save it like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gare.common.errors import ConfigError, InputError
from gare.common.files import atomic_directory, write_json
from gare.model.pixels import OPENAI_PIXELS, write_pixels
from gare.model.tokenizer import Tokenizer

SCRATCH_FILE = "scratch.json"

# CLIP's own 0.01 for positions is small compared with frame vectors of unit scale, to which the temporal transformer
# adds this table (docs/decisions.md has the measurements).
EMBEDDING_STD = 0.5


@dataclass(frozen=True)
class ScratchClip:
    """Sizes of a CLIP made from scratch; head width is 64, as in CLIP."""

    image_size: int = 64
    patch_size: int = 32
    width: int = 128
    vision_layers: int = 3
    text_layers: int = 2
    positions: int = 77
    vocabulary: int = 1024
    seed: int = 0


def make_clip(captions: Sequence[str], folder: Path, sizes: ScratchClip) -> int:
    """Train a tokenizer on captions, draw a CLIP from the seed, save both and return the parameter count."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils import logging

    if not captions:
        raise InputError("There are no captions to train a tokenizer on.")
    if sizes.width % 64:
        raise ConfigError(f"The width {sizes.width} is not a multiple of 64, CLIP's head width.")
    if sizes.image_size % sizes.patch_size:
        raise ConfigError(f"The image size {sizes.image_size} is not a multiple of the patch size {sizes.patch_size}.")
    tokenizer = Tokenizer.train(captions, sizes.vocabulary)
    tower = {"hidden_size": sizes.width, "intermediate_size": 4 * sizes.width, "num_attention_heads": sizes.width // 64}
    config = CLIPConfig(
        text_config=tower
        | {
            "num_hidden_layers": sizes.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": sizes.positions,
            "projection_dim": sizes.width,
            "bos_token_id": tokenizer.start_id,
            "eos_token_id": tokenizer.end_id,
            "pad_token_id": 0,
        },
        vision_config=tower
        | {
            "num_hidden_layers": sizes.vision_layers,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            "projection_dim": sizes.width,
        },
        projection_dim=sizes.width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sizes.seed)
        clip = CLIPModel(config)
        embeddings = clip.text_model.embeddings
        for table in (embeddings.token_embedding, embeddings.position_embedding):
            torch.nn.init.normal_(table.weight, std=EMBEDDING_STD)
    logging.disable_progress_bar()
    with atomic_directory(folder, marker=SCRATCH_FILE) as temporary:
        clip.save_pretrained(temporary)
        tokenizer.save(temporary)
        write_pixels(temporary, OPENAI_PIXELS, sizes.image_size)
        write_json(temporary / SCRATCH_FILE, asdict(sizes))
    return sum(p.numel() for p in clip.parameters())

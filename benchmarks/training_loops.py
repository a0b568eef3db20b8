"""Train ViT-B/32 for an epoch on a device: by ``gare train --local``, and by a plain loop around the same model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gare.config import Config
from gare.data.batches import Batch, make_batch
from gare.launch.local import fit_local
from gare.launch.progress import data_wait
from gare.model import GareModel
from gare.objective import objective
from gare.runs.inputs import choose_device, open_data
from gare.runs.layout import HISTORY_FILE
from gare.runs.state import RunSummary, read_history
from gare.scoring.head import PairDropout
from gare.training.optimiser import freeze, learning_rate_factor, make_optimiser, set_learning_rates

LEFT_OUT = 10


@dataclass(frozen=True)
class Taken:
    """Samples/s, share of the time waited for data, and torch's peak memory on the device in GiB."""

    rate: float
    wait: float
    memory: float


def make_vit_b_32(captions: Sequence[str], folder: Path) -> None:
    """Make a CLIP of ViT-B/32's sizes with random weights, and a tokenizer: the speed does not depend on them."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils import logging

    from gare.model.tokenizer import Tokenizer

    logging.disable_progress_bar()
    tokenizer = Tokenizer.train(captions, 1024)
    CLIPModel(CLIPConfig(text_config={"eos_token_id": tokenizer.end_id})).save_pretrained(folder)
    tokenizer.save(folder)


def of_history(summary: RunSummary, samples: int, left_out: int) -> Taken:
    """Summarise a run's history with ``samples`` a step, without its first ``left_out`` steps."""
    history = read_history(Path(summary.directory) / HISTORY_FILE)
    rows = [row for row in history if "train/loss" in row][left_out:]
    seconds = sum(row["speed/step_seconds"] for row in rows)
    memory = max(row.get("memory/cuda_gib", 0.0) for row in rows)
    return Taken(len(rows) * samples / seconds, data_wait(rows), memory)


def ours(config: Config) -> Taken:
    """Train an epoch with the product's own loop; its history has the figures."""
    return of_history(fit_local(config, quiet=True), config.train.global_batch, LEFT_OUT)


def plain(config: Config) -> Taken:
    """Train an epoch with the plain loop: batches made and normalised in it, all in float32, every frame encoded."""
    data, device = open_data(config), choose_device(config.runtime.device)
    torch.manual_seed(config.train.seed)
    model = GareModel.from_clip(config.model.clip, config.model)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    pixel_mean, pixel_std = model.pixel_mean.clone(), model.pixel_std.clone()
    freeze(model, config.train)
    model.to(device).train()
    optimiser = make_optimiser(model, config.train)
    seconds, waited, steps = 0.0, 0.0, 0
    for step, samples in enumerate(data.batches(config, 0)):
        begun = time.perf_counter()
        batch = make_batch(data.train, samples, tokenizer, config, model.image_size, epoch=0)
        pixels = ((batch.frames.float() / 255 - pixel_mean) / pixel_std).to(device)
        made = time.perf_counter()
        set_learning_rates(optimiser, learning_rate_factor(step, data.steps, config.train.warmup))
        with sdpa_kernel(SDPBackend.MATH):
            _plain_step(model, optimiser, batch, pixels, config, step)
        if step >= LEFT_OUT:
            seconds, waited, steps = seconds + time.perf_counter() - begun, waited + made - begun, steps + 1
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Taken(steps * config.train.global_batch / seconds, waited / seconds, memory)


def _plain_step(
    model: GareModel, optimiser: torch.optim.Optimizer, batch: Batch, pixels: torch.Tensor, config: Config, step: int
) -> float:
    device = pixels.device
    optimiser.zero_grad(set_to_none=True)
    token_mask, frame_mask = batch.token_mask.to(device), batch.frame_mask.to(device)
    text, words = model.encode_texts(batch.token_ids.to(device), token_mask)
    frames = model.temporal(model.embed_images(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]), frame_mask)
    dropout = PairDropout(config.model.dropout, config.train.seed, step)
    scored = model.head(text, frames, frame_mask, words, token_mask, dropout)
    terms = objective(scored.scores, scored.delta, model.logit_scale, config.objective)
    torch.autograd.backward([terms.share])
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.max_grad_norm)
    optimiser.step()
    model.clamp_logit_scale()
    return float(terms.share.detach())  # waits for the device, like a loop that logs its loss

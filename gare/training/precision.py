"""Numbers of half the width where they do no harm, and other ways to make the towers cheaper.

Only the towers compute in ``train.precision``; the pair head, the logits, the losses and the weights stay in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from gare.config.train import TrainConfig
from gare.model.gare import GareModel

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def tower_precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """The context in which the towers encode."""
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(device_type=device.type, dtype=DTYPES[config.precision])


def make_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler | None:
    """The loss scaler of fp16, whose gradients would vanish without; None for the other precisions."""
    return torch.amp.GradScaler(device.type) if config.precision == "fp16" else None


def prepare_towers(model: GareModel, config: TrainConfig) -> None:
    """Switch on activation checkpointing and compilation of CLIP's towers, as the settings say."""
    if config.checkpoint_activations:
        new = "activation_checkpointing_enable"  # transformers before 5.23 knows the other name only
        enable = getattr(model.clip, new if hasattr(model.clip, new) else "gradient_checkpointing_enable")
        enable({"use_reentrant": False})
    if config.compile:
        # In place, so that names of weights stay; batches differ in their number of valid frames.
        for tower in (model.clip.text_model, model.clip.vision_model):
            tower.compile(dynamic=True)

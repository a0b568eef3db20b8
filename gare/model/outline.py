"""A model's shapes without its weights: what can be said of it before anything is loaded or allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.config.experiment import ModelConfig
from gare.model.gare import GareModel
from gare.model.towers import new_model


def outline(architecture: Any, config: ModelConfig, device: str = "meta") -> GareModel:
    """The model of a CLIP's config with nothing in it; on another device than meta, inside a FakeTensorMode.

    Raises InputError when the sizes do not fit each other.
    """
    try:
        # Made there whatever the device, since drawing weights can need numbers, which fake tensors do not have.
        with torch.device("meta"):
            clip = new_model(architecture)
        with torch.device(device):
            _move(clip)
            return GareModel(clip, config)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"No CLIP model can be made of its config: {first_line(error)}.") from error


def _move(clip: nn.Module) -> None:
    """Replace every tensor by an empty one on the device that tensors are made on now."""
    for module in clip.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))

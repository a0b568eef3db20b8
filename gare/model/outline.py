"""A model's shapes without its weights: what can be said of it before anything is loaded or allocated."""

from __future__ import annotations

from typing import Any

import torch

from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.config.model import ModelConfig
from gare.model.gare import GareModel


def outline(architecture: Any, config: ModelConfig, device: str = "meta") -> GareModel:
    """The model of a CLIPConfig with nothing in it; on another device than meta, inside a FakeTensorMode.

    Raises InputError when the sizes do not fit each other.
    """
    from transformers import CLIPModel

    try:
        with torch.device(device):
            return GareModel(CLIPModel(architecture), config)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"No CLIP model can be made of its config: {first_line(error)}.") from error

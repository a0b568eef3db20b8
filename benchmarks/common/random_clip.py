"""A CLIP with random weights, as transformers draws them."""

from __future__ import annotations

from typing import Any

from transformers import CLIPConfig, CLIPModel

from gare.model.clip_config import config_of
from gare.model.towers import model_of


def random_clip(config: CLIPConfig) -> Any:
    """Return this project's CLIP of a config, with the weights that transformers draws from torch's generator."""
    return model_of(config_of(config.to_dict(), "the benchmark"), CLIPModel(config).state_dict())

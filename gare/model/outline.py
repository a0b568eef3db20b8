"""A model's shapes without its weights: what can be said of it before anything is loaded or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gare.common.errors import InputError
from gare.config.model import ModelConfig
from gare.model.gare import CLIP_ADVICE, TOKENIZER_FILES, GareModel, quiet_hub

_LARGE = {
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "projection_dim": 768,
}
OPENAI: Mapping[str, Mapping[str, Any]] = {
    "openai/clip-vit-base-patch32": {},
    "openai/clip-vit-base-patch16": {"vision_config": {"patch_size": 16}},
    "openai/clip-vit-large-patch14": _LARGE,
    "openai/clip-vit-large-patch14-336": {
        **_LARGE,
        "vision_config": {**_LARGE["vision_config"], "image_size": 336},  # type: ignore[dict-item]
    },
}
"""Where OpenAI's published models differ from transformers' default CLIP, which is ViT-B/32."""


def clip_architecture(source: str) -> Any:
    """The CLIPConfig of a folder or hub id: from this machine, else for OpenAI's ids as published, else from the hub.

    Raises InputError when there is none, or when it is another model's.
    """
    from transformers import CLIPConfig

    folder = Path(source)
    if not folder.is_dir() and (source.count("/") != 1 or source.startswith(("/", ".", "~"))):
        raise InputError(f"There is no folder {source} to take the CLIP model from. {CLIP_ADVICE}")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{source} holds no CLIP model: it has no config.json. {CLIP_ADVICE}")
    try:
        values = _config_values(source, local_files_only=True)
    except Exception as error:  # whatever a damaged file or a missing one makes of transformers
        if folder.is_dir():
            raise _no_config(source, error) from error
        if source in OPENAI:
            return CLIPConfig(**OPENAI[source])
        try:
            values = _config_values(source, local_files_only=False)
        except Exception as unreachable:  # the same, and a hub that does not answer
            raise _no_config(source, unreachable) from unreachable
    kind = values.get("model_type")
    if kind != "clip":
        raise InputError(f"{source} is a model of the type {kind}, not CLIP. {CLIP_ADVICE}")
    try:
        with quiet_hub():
            return CLIPConfig.from_dict(values)
    except Exception as error:
        raise _no_config(source, error) from error


def outline(architecture: Any, config: ModelConfig, device: str = "meta") -> GareModel:
    """The model of a CLIPConfig with nothing in it; on another device than meta, inside a FakeTensorMode.

    Raises InputError when the sizes do not fit each other.
    """
    from transformers import CLIPModel

    try:
        with torch.device(device):
            return GareModel(CLIPModel(architecture), config)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"No CLIP model can be made of its config: {_first_line(error)}. {CLIP_ADVICE}") from error


def has_tokenizer(source: str) -> bool:
    """Whether a CLIP folder holds a tokenizer; a hub id is taken to."""
    folder = Path(source)
    return not folder.is_dir() or any((folder / name).is_file() for name in TOKENIZER_FILES)


def _config_values(source: str, *, local_files_only: bool) -> dict[str, Any]:
    from transformers import CLIPConfig

    with quiet_hub():
        values, _ = CLIPConfig.get_config_dict(source, local_files_only=local_files_only)
    return dict(values)


def _no_config(source: str, error: Exception) -> InputError:
    return InputError(f"Cannot read the config of a CLIP model from {source}: {_first_line(error)}. {CLIP_ADVICE}")


def _first_line(error: Exception) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")

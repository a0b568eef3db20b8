"""The architecture of a CLIP: the values of its config.json that change what it computes, under transformers' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gare.common.files import write_json
from gare.common.records import is_number
from gare.common.redact import shown

CONFIG = "config.json"
TOWERS = ("text_config", "vision_config")

Defaults = Mapping[str, Mapping[str, Any]]
"""Section of a config.json ("" for its top) -> key -> the value that counts where the file does not have the key."""

_TOWER = {
    "num_hidden_layers": 12, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0.0,
}  # fmt: skip
_WIDE = _TOWER | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_IMAGES = {"image_size": 224, "patch_size": 32, "num_channels": 3}
_SIGLIP = _WIDE | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}

CLIP_DEFAULTS: Defaults = {
    "text_config": _TOWER
    | {"vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 512}
    | {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
    "vision_config": _WIDE | _IMAGES | {"projection_dim": 512},
    "": {"projection_dim": 512, "logit_scale_init_value": 2.6592},
}
SIGLIP_DEFAULTS: Defaults = {
    "text_config": _SIGLIP | {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None},
    "vision_config": _SIGLIP | _IMAGES | {"patch_size": 16, "vision_use_head": True},
    "": {},
}


class Section(SimpleNamespace):
    """The values of a tower, as attributes."""


class Architecture(SimpleNamespace):
    """The values of a config.json as attributes; ``text_config`` and ``vision_config`` are sections."""

    model_type: str
    text_config: Section
    vision_config: Section


def architecture(kind: str, defaults: Defaults, values: Mapping[str, Any]) -> Architecture:
    """Build the architecture of a ``model_type`` from the values of a config.json; other keys are not read.

    Raises ValueError for a value of another type than its default.
    """
    parts = {name: _read(values.get(name) or {}, defaults[name]) for name in TOWERS}
    text = parts["text_config"]
    if text.get("projection_size", 0) is None:
        text["projection_size"] = text["hidden_size"]
    top = _read(values, defaults[""])
    return Architecture(model_type=kind, **{name: Section(**part) for name, part in parts.items()}, **top)


def write_architecture(config: Architecture, folder: Path, class_name: str) -> None:
    """Write the config.json from which transformers and ``gare`` make this model; ``class_name``: transformers'."""
    values = dict(vars(config))
    for name in TOWERS:
        kind = f"{config.model_type}_{name.replace('config', 'model')}"
        values[name] = {"model_type": kind, **vars(values[name])}
    write_json(folder / CONFIG, {"architectures": [class_name], "dtype": "float32", **values})


def _read(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    taken = {key: values.get(key, default) for key, default in defaults.items()}
    for key, value in taken.items():
        if not _fits(value, defaults[key], key):
            raise ValueError(f"{key} is {shown(value)}")
    return taken


def _fits(value: Any, default: Any, key: str) -> bool:
    """True if a value has the type of its default; sizes are checked by ``gare/model/clip_config.py``."""
    if key.endswith("_token_id"):
        listed = value if isinstance(value, list) else [value]
        return value is None or all(type(one) is int for one in listed)
    if isinstance(default, bool | str):
        return type(value) is type(default)
    return not isinstance(default, float) or is_number(value)

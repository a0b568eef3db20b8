"""Convert checkpoints of the authors' released code, and CLIPs of OpenAI and open_clip, to our models.

The released model holds OpenAI's CLIP under ``clip.``, the temporal transformer as ``transformerClip`` and
``frame_position_embeddings``, psi twice (``psi``, ``agent.psi``), and layers that its forward pass never calls. Sizes
are read from the shapes. Every tensor of a file is mapped, dropped for a stated reason, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.redact import names as listed
from gare.config import Config
from gare.config.tree import build, check_key, with_value
from gare.model.accounted import Converted, Row, Source
from gare.model.architecture import Architecture
from gare.model.clip_config import config_of
from gare.model.gare import GareModel
from gare.model.open_clip import OPENAI, Stated
from gare.model.openai_names import convert_clip, take_block, take_clip
from gare.model.temporal import HEAD_WIDTH
from gare.model.tokenizer import Tokenizer
from gare.model.towers import model_of

PSI = {
    **{f"{p}_proj": f"layers.0.cross_attn.{p}_proj" for p in ("q", "k", "v", "out")},
    "linear1": "layers.0.linear1",
    **{f"layer_norm{n}": f"layers.0.layer_norm{n}" for n in (1, 2, 3)},
    "mean_proj": "mean_proj",
}
"""Our names of psi's parts -> theirs, each with a weight and a bias."""

OUR_BLOCK = {"attention": "", "norm": "norm", "mlp": ""}


def convert(tensors: Mapping[str, Tensor], stated: Stated | None = None) -> Converted:
    """Map a released GARE checkpoint, an OpenAI CLIP archive or the weights of an open_clip model by their names.

    ``stated``: what else is known; for open_clip's weights it must be complete. Raises InputError if tensors are
    missing, of an unexpected shape, not finite, unknown, or stored twice with different values, and ConfigError if the
    file leaves open how its CLIP computes.
    """
    if "clip.visual.conv1.weight" in tensors:
        return _convert_gare(Source(tensors))
    if "visual.conv1.weight" in tensors:
        return convert_clip(tensors, stated or Stated())
    first = listed(sorted(tensors)[:3]) or "nothing"
    raise InputError(
        "The file is neither a checkpoint of the released GARE code (clip.visual.*, psi.*) nor a CLIP of OpenAI or "
        f"open_clip with a vision transformer (visual.conv1.*): it holds {first}, ..."
    )


def settings_of(converted: Converted, changes: Mapping[str, Any]) -> Config:
    """Return the recipe's settings with the file's own values and ``changes`` (dotted ``model.`` keys -> values).

    Raises ConfigError for a change that contradicts the file or is not a model setting.
    """
    values: dict[str, Any] = {}
    for key, value in converted.settings.items():
        values = with_value(values, key, value)
    for key, value in changes.items():
        check_key(key)
        if not key.startswith("model."):
            raise ConfigError(f"{key} is not a setting of the model; only model.* can be set when importing one.")
        if key in converted.settings and converted.settings[key] != value:
            raise ConfigError(f"{key} is {converted.settings[key]} in the file; it cannot be set to {value}.")
        values = with_value(values, key, value)
    config = build(values, "--set")
    if config.model.query == "residual_scaled":
        raise ConfigError("model.query cannot be residual_scaled: the file has no weights for the learned length.")
    return config


def assumed(config: Config, converted: Converted) -> dict[str, Any]:
    """Return the model settings that change the scores and that no file of the released code holds."""
    names = ("pool_temperature", "corrected", "context", "gap_sign", "query", "video_base")
    return {f"model.{n}": getattr(config.model, n) for n in names if f"model.{n}" not in converted.settings}


def architecture_of(converted: Converted) -> Architecture:
    """Return the CLIP's architecture; InputError for sizes that no CLIP has."""
    return config_of({"model_type": "clip"} | converted.clip_config, "The file")


def build_clip(converted: Converted) -> Any:
    """Build the CLIP of the weights, in evaluation mode."""
    return model_of(architecture_of(converted), _own(converted))


def build_gare(converted: Converted, config: Config, tokenizer: Tokenizer | None = None) -> GareModel:
    """Build the model of the weights and settings, in evaluation mode."""
    return GareModel.with_weights(architecture_of(converted), _own(converted), config.model, tokenizer)


def _own(converted: Converted) -> dict[str, Tensor]:
    """Copy the weights, which share memory with the file's tensors."""
    return {name: x.clone(memory_format=torch.contiguous_format) for name, x in converted.weights.items()}


def _convert_gare(source: Source) -> Converted:
    clip = take_clip(source, "clip.", OPENAI)
    weights = {f"clip.{name}": tensor for name, tensor in clip.weights.items()}
    out = Converted("gare", clip.clip_config, weights, mapped=clip.mapped)
    dim = clip.clip_config["projection_dim"]
    if dim % HEAD_WIDTH:
        raise InputError(f"The embedding width {dim} in the file is not a multiple of {HEAD_WIDTH}, the head width.")
    start = len(source.taken)
    layers = source.layers("transformerClip.resblocks")
    for n in range(layers):
        take_block(source, f"transformerClip.resblocks.{n}.", dim, 4 * dim, weights, f"temporal.blocks.{n}.", OUR_BLOCK)
    positions = source.shape("frame_position_embeddings.weight", 2)[0]
    weights["temporal.positions"] = source.take("frame_position_embeddings.weight", (positions, dim))
    out.mapped.append(
        Row("transformerClip.*, frame_position_embeddings", len(source.taken) - start, f"temporal, {layers} blocks")
    )
    text, vision = clip.clip_config["text_config"], clip.clip_config["vision_config"]
    out.settings = _fitting(text["max_position_embeddings"], vision["image_size"], positions)
    out.settings |= {"model.head": "gare", "model.temporal_layers": layers, "model.max_frames": positions}
    if any(name.startswith("psi.") for name in source.tensors):
        start = len(source.taken)
        for ours, theirs in PSI.items():
            for part in ("weight", "bias"):
                square = part == "weight" and "norm" not in ours
                shape = (dim, dim) if square else (dim,)
                weights[f"head.psi.{ours}.{part}"] = source.take(f"psi.{theirs}.{part}", shape)
        out.mapped.append(Row("psi.*", len(source.taken) - start, "head.psi"))
        out.settings["model.increment"] = "cross_attention"
    else:
        out.settings["model.increment"] = "none"
    source.drop_copies("agent.psi.", "psi.", out)
    source.drop_dead(out)
    source.finish()
    return out


def _fitting(words: int, image_size: int, frames: int) -> dict[str, Any]:
    """Return settings of data and prepare where the recipe's do not fit the model's sizes."""
    recipe, settings = Config(), dict[str, Any]()
    if recipe.data.words > words:
        settings["data.words"] = words
    if recipe.data.frames > frames:
        settings["data.frames"] = frames
    if recipe.prepare.crop != image_size:
        settings |= {"prepare.crop": image_size, "prepare.short_side": image_size}
    return settings

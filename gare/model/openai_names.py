"""Map a CLIP from the names of OpenAI's code and open_clip to those of transformers' CLIPModel.

Sizes are read from the shapes; the caller states what shapes do not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gare.common.errors import InputError
from gare.model.accounted import Converted, Row, Source
from gare.model.open_clip import CONFIG as OPEN_CLIP_CONFIG
from gare.model.open_clip import Stated, complete

OURS = {
    "embed_dim": "projection_dim",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "mlp_width": "intermediate_size",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
}
"""open_clip's names of sizes -> transformers'."""

OPENAI_SIZES = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Tensors that identify OpenAI's own archives."""

HF_BLOCK = {"attention": "self_attn.", "norm": "layer_norm", "mlp": "mlp."}


def convert_clip(tensors: Mapping[str, Tensor], stated: Stated) -> Converted:
    """Map an OpenAI CLIP or open_clip's weights; raises as ``released.convert``."""
    # open_clip has two classes, which hold the same text tower under two names.
    source = Source({name.removeprefix("text."): tensor for name, tensor in tensors.items()})
    if len(source.tensors) < len(tensors):
        raise InputError("The file holds two text towers, one of them under text.*.")
    converted = take_clip(source, "", complete(stated, openai=source.tensors.keys() >= OPENAI_SIZES))
    source.drop_dead(converted)
    source.finish()
    return converted


def config_values(stated: Stated) -> dict[str, Any]:
    """Return the values of a config.json for the model that open_clip's config describes."""
    parts = {
        name: {OURS[key]: value for (section, key), value in stated.sizes.items() if section == name}
        for name in ("", "text_cfg", "vision_cfg")
    }
    text, vision = parts["text_cfg"] | parts[""], parts["vision_cfg"] | parts[""]
    vision |= _computing(vision["hidden_size"], stated.image_head_width, stated, "the image tower")
    text |= _computing(text["hidden_size"], stated.text_head_width, stated, "the text tower")
    text |= _ids(text["vocab_size"])
    return {"model_type": "clip", "text_config": text, "vision_config": vision, **parts[""]}


def take_clip(source: Source, prefix: str, stated: Stated) -> Converted:
    """Map the CLIP under ``prefix`` to the names of CLIPModel; ``stated``: everything that shapes do not show."""
    if f"{prefix}visual.layer1.0.conv1.weight" in source.tensors:
        raise InputError("The file's CLIP has a ResNet as its image tower; only vision transformers can be imported.")
    weights: dict[str, Tensor] = {}
    out = Converted("clip", {}, weights)
    visual = f"{prefix}visual."
    width, channels, patch, _ = source.shape(f"{visual}conv1.weight", 4)
    grid = source.shape(f"{visual}positional_embedding", 2)[0] - 1
    side = round(grid**0.5)
    if side * side != grid or channels != 3:
        raise InputError(f"The file's image tower has {grid} patches of {channels} channels; a square of 3 is needed.")
    dim = source.shape(f"{visual}proj", 2)[1]
    start = len(source.taken)
    weights["vision_model.embeddings.class_embedding"] = source.take(f"{visual}class_embedding", (width,))
    patches = source.take(f"{visual}conv1.weight", (width, 3, patch, patch))
    weights["vision_model.embeddings.patch_embedding.weight"] = patches
    places = source.take(f"{visual}positional_embedding", (grid + 1, width))
    weights["vision_model.embeddings.position_embedding.weight"] = places
    for theirs, ours in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for part in ("weight", "bias"):
            weights[f"vision_model.{ours}.{part}"] = source.take(f"{visual}{theirs}.{part}", (width,))
    weights["visual_projection.weight"] = source.take(f"{visual}proj", (width, dim)).T.contiguous()
    vision = _take_tower(source, f"{visual}transformer.resblocks", width, weights, "vision_model.encoder.layers.")
    vision |= _computing(width, stated.image_head_width, stated, f"{visual}transformer")
    vision |= {"image_size": side * patch, "patch_size": patch, "projection_dim": dim}
    out.mapped.append(Row(f"{visual}*", len(source.taken) - start, _tower_remark("image tower", vision)))

    start = len(source.taken)
    vocabulary, width = source.shape(f"{prefix}token_embedding.weight", 2)
    positions = source.shape(f"{prefix}positional_embedding", 2)[0]
    embeddings = "text_model.embeddings."
    tokens = source.take(f"{prefix}token_embedding.weight", (vocabulary, width))
    weights[f"{embeddings}token_embedding.weight"] = tokens
    places = source.take(f"{prefix}positional_embedding", (positions, width))
    weights[f"{embeddings}position_embedding.weight"] = places
    for part in ("weight", "bias"):
        weights[f"text_model.final_layer_norm.{part}"] = source.take(f"{prefix}ln_final.{part}", (width,))
    weights["text_projection.weight"] = source.take(f"{prefix}text_projection", (width, dim)).T.contiguous()
    text = _take_tower(source, f"{prefix}transformer.resblocks", width, weights, "text_model.encoder.layers.")
    text |= _computing(width, stated.text_head_width, stated, f"{prefix}transformer")
    text |= {"vocab_size": vocabulary, "max_position_embeddings": positions, "projection_dim": dim}
    text |= _ids(vocabulary)
    group = f"{prefix}transformer.*, token and position embeddings, ln_final, text_projection"
    out.mapped.append(Row(group, len(source.taken) - start, _tower_remark("text tower", text)))
    weights["logit_scale"] = source.take(f"{prefix}logit_scale", ())
    out.mapped.append(Row(f"{prefix}logit_scale", 1, f"the logits' scale, {float(weights['logit_scale'].exp()):.1f}"))
    out.clip_config = {"text_config": text, "vision_config": vision, "projection_dim": dim}
    out.pixels = stated.pixels
    out.stated = {key: (value, stated.origins[key]) for key, value in stated.values().items()}
    _check_sizes(out.clip_config, stated)
    sizes = {"input_resolution": side * patch, "context_length": positions, "vocab_size": vocabulary}
    source.drop_stated(prefix, sizes, out)
    return out


def _tower_remark(name: str, config: Mapping[str, Any]) -> str:
    return f"{name}, {config['num_hidden_layers']} blocks of width {config['hidden_size']}"


def _take_tower(source: Source, blocks: str, width: int, weights: dict[str, Tensor], ours: str) -> dict[str, Any]:
    """Map the blocks of a tower and return its sizes."""
    layers = source.layers(blocks)
    hidden = source.shape(f"{blocks}.0.mlp.c_fc.weight", 2)[0]
    for n in range(layers):
        take_block(source, f"{blocks}.{n}.", width, hidden, weights, f"{ours}{n}.", HF_BLOCK)
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
    }


def _computing(width: int, head_width: int | None, stated: Stated, blocks: str) -> dict[str, Any]:
    """Return a tower's number of heads and activation."""
    if head_width is None or width % head_width:
        raise InputError(f"The width {width} of {blocks} in the file is not a multiple of the head width {head_width}.")
    return {"num_attention_heads": width // head_width, "hidden_act": stated.activation}


def _ids(vocabulary: int) -> dict[str, int]:
    """Return the ids of OpenAI's vocabulary: start and end tokens come last; texts are read at the largest id."""
    return {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0}


def _check_sizes(config: Mapping[str, Any], stated: Stated) -> None:
    """Raise InputError if the tensors differ from open_clip's config."""
    for (section, key), value in stated.sizes.items():
        part = config if not section else config["vision_config" if section == "vision_cfg" else "text_config"]
        if part[OURS[key]] != value:
            name = f"{section}.{key}".removeprefix(".")
            raise InputError(
                f"The {OPEN_CLIP_CONFIG} next to the file says {name} {value}, but its tensors have {part[OURS[key]]}."
            )


def take_block(
    source: Source,
    theirs: str,
    width: int,
    hidden: int,
    weights: dict[str, Tensor],
    ours: str,
    names: Mapping[str, str],
) -> None:
    """Map one residual attention block: queries, keys and values are one matrix there and three here."""
    attention, norm, mlp = (f"{ours}{names[part]}" for part in ("attention", "norm", "mlp"))
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        joint = source.take(f"{theirs}attn.in_proj_{part}", (3 * width, *shape[1:]))
        for name, tensor in zip("qkv", joint.chunk(3), strict=True):
            weights[f"{attention}{name}_proj.{part}"] = tensor
        weights[f"{attention}out_proj.{part}"] = source.take(f"{theirs}attn.out_proj.{part}", shape)
        for n in (1, 2):
            weights[f"{norm}{n}.{part}"] = source.take(f"{theirs}ln_{n}.{part}", (width,))
    for name, fc, (rows, columns) in (("c_fc", "fc1", (hidden, width)), ("c_proj", "fc2", (width, hidden))):
        weights[f"{mlp}{fc}.weight"] = source.take(f"{theirs}mlp.{name}.weight", (rows, columns))
        weights[f"{mlp}{fc}.bias"] = source.take(f"{theirs}mlp.{name}.bias", (rows,))

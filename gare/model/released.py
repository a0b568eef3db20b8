"""Checkpoints of the authors' released code, and OpenAI's CLIP, as models of ours.

The released model holds OpenAI's CLIP under ``clip.``, the temporal transformer as ``transformerClip`` and
``frame_position_embeddings``, psi twice (``psi``, ``agent.psi``), and layers its forward pass never calls. Sizes are
read off the shapes. Every tensor of a file is mapped, dropped for a stated reason, or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.config.tree import build, check_key, with_value
from gare.model.gare import GareModel
from gare.model.temporal import HEAD_WIDTH
from gare.model.tokenizer import Tokenizer

PSI = {
    **{f"{p}_proj": f"layers.0.cross_attn.{p}_proj" for p in ("q", "k", "v", "out")},
    "linear1": "layers.0.linear1",
    **{f"layer_norm{n}": f"layers.0.layer_norm{n}" for n in (1, 2, 3)},
    "mean_proj": "mean_proj",
}
"""Our names of psi's parts -> theirs, each with a weight and a bias."""

NEVER_CALLED = "a layer the released forward pass never calls"
DEAD = {
    r"psi\.layers\.\d+\.linear2\.": NEVER_CALLED,
    r"psi\.layers\.\d+\.mlp\.": NEVER_CALLED,
    r"psi\.log_std_proj\.": f"{NEVER_CALLED} (increments are not sampled)",
    r"weight_fc\.": f"{NEVER_CALLED} (words and frames are not weighted)",
    r"(.+\.)?attn_mask$": "the causal mask, the same in every CLIP",
}

HF_BLOCK = {"attention": "self_attn.", "norm": "layer_norm", "mlp": "mlp."}
OUR_BLOCK = {"attention": "", "norm": "norm", "mlp": ""}


@dataclass(frozen=True)
class Row:
    """One line of what became of a file: a group of its tensors, how many, and where they went or why not."""

    group: str
    tensors: int
    remark: str


@dataclass
class Converted:
    """Weights in our names and float32, CLIP's config (as of transformers), and what the shapes say.

    ``kind``: ``gare`` (names of GareModel) or ``clip`` (names of transformers' CLIPModel). ``settings``: dotted keys
    that the file determines.
    """

    kind: Literal["gare", "clip"]
    clip_config: dict[str, Any]
    weights: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    mapped: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Map a released GARE checkpoint or an OpenAI CLIP archive by the names in it.

    Raises InputError when tensors are missing, of an unexpected shape, not finite, unknown, or stored twice with
    different values.
    """
    source = _Source(tensors)
    if "clip.visual.conv1.weight" in tensors:
        return _convert_gare(source)
    if "visual.conv1.weight" in tensors:
        converted = _take_clip(source, "")
        source.drop_dead(converted)
        source.finish()
        return converted
    first = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise InputError(
        "The file is neither a checkpoint of the released GARE code (clip.visual.*, psi.*) nor an OpenAI CLIP with a "
        f"vision transformer (visual.conv1.*): it holds {first}, ..."
    )


def settings_of(converted: Converted, changes: Mapping[str, Any]) -> Config:
    """The recipe's settings with what the file determines and ``changes`` (dotted ``model.`` keys -> values).

    Raises ConfigError for a change that contradicts the file or is no setting of the model.
    """
    values: dict[str, Any] = {}
    for key, value in converted.settings.items():
        values = with_value(values, key, value)
    for key, value in changes.items():
        check_key(key)
        if not key.startswith("model."):
            raise ConfigError(f"{key} is no setting of the model; only model.* can be set when importing one.")
        if key in converted.settings and converted.settings[key] != value:
            raise ConfigError(f"{key} is {converted.settings[key]} in the file; it cannot be set to {value}.")
        values = with_value(values, key, value)
    config = build(values, "--set")
    if config.model.query == "residual_scaled":
        raise ConfigError("model.query cannot be residual_scaled: the file has no weights for the learned length.")
    return config


def assumed(config: Config, converted: Converted) -> dict[str, Any]:
    """Model settings that change the scores and that no file of the released code holds."""
    names = ("pool_temperature", "corrected", "context", "gap_sign", "query", "video_base")
    return {f"model.{n}": getattr(config.model, n) for n in names if f"model.{n}" not in converted.settings}


def build_clip(converted: Converted) -> Any:
    """The transformers CLIPModel of the weights, in evaluation mode."""
    from transformers import CLIPConfig, CLIPModel

    clip = CLIPModel(CLIPConfig(**converted.clip_config))
    if converted.kind == "clip":
        clip.load_state_dict(converted.weights)
    return clip.eval()


def build_gare(converted: Converted, config: Config, tokenizer: Tokenizer | None = None) -> GareModel:
    """The model of the weights and settings, in evaluation mode."""
    model = GareModel(build_clip(converted), config.model, tokenizer)
    model.load_state_dict(converted.weights)
    return model.eval()


def check_tokenizer(converted: Converted, tokenizer: Tokenizer) -> None:
    """InputError unless the tokenizer's ids are those the text tower was trained on.

    The released code takes a text's vector at its largest id, so that has to be the end token's.
    """
    vocabulary = converted.clip_config["text_config"]["vocab_size"]
    if len(tokenizer) != vocabulary or tokenizer.end_id != vocabulary - 1:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} ids and ends a text with {tokenizer.end_id}, but the checkpoint knows "
            f"{vocabulary} ids, the last of which ends a text; give the tokenizer it was trained with."
        )


def _convert_gare(source: _Source) -> Converted:
    clip = _take_clip(source, "clip.")
    weights = {f"clip.{name}": tensor for name, tensor in clip.weights.items()}
    out = Converted("gare", clip.clip_config, weights, mapped=clip.mapped)
    dim = clip.clip_config["projection_dim"]
    if dim % HEAD_WIDTH:
        raise InputError(f"The embedding width {dim} in the file is no multiple of {HEAD_WIDTH}, the head width.")
    start = len(source.taken)
    layers = source.layers("transformerClip.resblocks")
    for n in range(layers):
        _take_block(
            source, f"transformerClip.resblocks.{n}.", dim, 4 * dim, weights, f"temporal.blocks.{n}.", OUR_BLOCK
        )
    positions = source.shape("frame_position_embeddings.weight", 2)[0]
    weights["temporal.positions"] = source.take("frame_position_embeddings.weight", (positions, dim))
    out.mapped.append(
        Row("transformerClip.*, frame_position_embeddings", len(source.taken) - start, f"temporal, {layers} blocks")
    )
    text, vision = clip.clip_config["text_config"], clip.clip_config["vision_config"]
    out.settings = _fitting(text["max_position_embeddings"], vision["image_size"], positions)
    out.settings |= {"model.temporal_layers": layers, "model.max_frames": positions}
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
    """Settings of data and prepare, where the recipe's own do not fit the model's sizes."""
    recipe, settings = Config(), dict[str, Any]()
    if recipe.data.words > words:
        settings["data.words"] = words
    if recipe.data.frames > frames:
        settings["data.frames"] = frames
    if recipe.prepare.crop != image_size:
        settings |= {"prepare.crop": image_size, "prepare.short_side": image_size}
    return settings


def _take_clip(source: _Source, prefix: str) -> Converted:
    """OpenAI's CLIP under ``prefix``, in the names of transformers' CLIPModel."""
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
    text |= {"vocab_size": vocabulary, "max_position_embeddings": positions, "projection_dim": dim}
    # OpenAI's vocabulary ends with its start and end tokens; texts are read at the largest id.
    text |= {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0}
    group = f"{prefix}transformer.*, token and position embeddings, ln_final, text_projection"
    out.mapped.append(Row(group, len(source.taken) - start, _tower_remark("text tower", text)))
    weights["logit_scale"] = source.take(f"{prefix}logit_scale", ())
    out.mapped.append(Row(f"{prefix}logit_scale", 1, f"the logits' scale, {float(weights['logit_scale'].exp()):.1f}"))
    out.clip_config = {"text_config": text, "vision_config": vision, "projection_dim": dim}
    stated = {"input_resolution": side * patch, "context_length": positions, "vocab_size": vocabulary}
    source.drop_stated(prefix, stated, out)
    return out


def _tower_remark(name: str, config: Mapping[str, Any]) -> str:
    return f"{name}, {config['num_hidden_layers']} blocks of width {config['hidden_size']}"


def _take_tower(source: _Source, blocks: str, width: int, weights: dict[str, Tensor], ours: str) -> dict[str, Any]:
    """The blocks of a tower; returns its sizes."""
    if width % HEAD_WIDTH:
        raise InputError(f"The width {width} of {blocks} is no multiple of {HEAD_WIDTH}, CLIP's head width.")
    layers = source.layers(blocks)
    hidden = source.shape(f"{blocks}.0.mlp.c_fc.weight", 2)[0]
    for n in range(layers):
        _take_block(source, f"{blocks}.{n}.", width, hidden, weights, f"{ours}{n}.", HF_BLOCK)
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_WIDTH,
    }


def _take_block(
    source: _Source,
    theirs: str,
    width: int,
    hidden: int,
    weights: dict[str, Tensor],
    ours: str,
    names: Mapping[str, str],
) -> None:
    """One residual attention block: queries, keys and values are one matrix there and three here."""
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


class _Source:
    """A file's tensors, and which of them are accounted for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.taken: set[str] = set()

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """A tensor's shape, which sizes are read off."""
        if name not in self.tensors:
            raise InputError(f"The file has no tensor {name}; it is not complete.")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise InputError(f"The tensor {name} in the file is {shape}; {dimensions} dimensions are expected.")
        return shape

    def layers(self, blocks: str) -> int:
        """How many numbered blocks there are."""
        pattern = re.compile(rf"{re.escape(blocks)}\.(\d{{1,4}})\.")
        numbers = {int(m[1]) for m in map(pattern.match, self.tensors) if m}
        return max(numbers, default=-1) + 1

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of this shape, in float32."""
        found = self.shape(name, len(shape))
        if found != shape:
            raise InputError(f"The tensor {name} in the file is {found}, where its other tensors ask for {shape}.")
        tensor = self.tensors[name]
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InputError(f"The tensor {name} in the file holds values that are no finite numbers.")
        self.taken.add(name)
        return tensor.float()

    def drop(self, names: Iterable[str], group: str, remark: str, out: Converted) -> None:
        """Account for tensors that are not needed."""
        names = list(names)
        if names:
            self.taken.update(names)
            out.dropped.append(Row(group, len(names), remark))

    def drop_stated(self, prefix: str, stated: Mapping[str, int], out: Converted) -> None:
        """Sizes that OpenAI's archives hold as tensors, after checking that the shapes say the same."""
        names = [name for name in stated if f"{prefix}{name}" in self.tensors]
        for name in names:
            value = self.tensors[f"{prefix}{name}"]
            if value.numel() != 1 or int(value) != stated[name]:
                raise InputError(f"The file states {name} {value.tolist()}, but its tensors have {stated[name]}.")
        self.drop((prefix + name for name in names), ", ".join(names), "sizes, which the shapes say too", out)

    def drop_copies(self, copy: str, original: str, out: Converted) -> None:
        """Tensors stored a second time; InputError when the two differ."""
        names = [name for name in self.tensors if name.startswith(copy)]
        for name in names:
            first = original + name.removeprefix(copy)
            if first not in self.tensors:
                raise InputError(f"The file has {name}, but not {first}, which it should be a copy of.")
            if not torch.equal(self.tensors[name], self.tensors[first]):
                raise InputError(f"The file holds two versions of one weight: {name} and {first} differ.")
        self.drop(names, f"{copy}*", f"the same tensors as {original}*, stored twice", out)

    def drop_dead(self, out: Converted) -> None:
        """Layers that play no part."""
        for pattern, reason in DEAD.items():
            names = [name for name in self.tensors if name not in self.taken and re.match(pattern, name)]
            self.drop(names, _shown(pattern), reason, out)

    def finish(self) -> None:
        """InputError when something is left that nobody asked for."""
        left = sorted(self.tensors.keys() - self.taken)
        if left:
            shown = ", ".join(left[:8]) + (", ..." if len(left) > 8 else "")
            raise InputError(
                f"The file holds {len(left)} tensors this software does not know, so its scores could not be "
                f"reproduced: {shown}."
            )


def _shown(pattern: str) -> str:
    """A pattern as people write it."""
    plain = pattern.replace(r"(.+\.)?", "*.").replace(r"\d+", "*").replace("\\", "").removesuffix("$")
    return plain + "*" if plain.endswith(".") else plain

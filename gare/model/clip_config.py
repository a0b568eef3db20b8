"""Read a CLIP's architecture from its config.json: only the keys of its family, each within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.records import is_number, read_object
from gare.common.redact import shown
from gare.model.architecture import CONFIG, TOWERS, Architecture, architecture
from gare.model.tokenizer import Tokenizer
from gare.model.towers import FAMILIES, NAFLEX, Family, family_of, new_model
from gare.model.transformer import activation
from gare.model.weights import Shape

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
"""Differences between OpenAI's published models and transformers' default CLIP, which is ViT-B/32."""

# Far above any existing CLIP. A model's memory is bounded by its weights, which are compared with its sizes before
# anything is allocated; the number of layers takes time even without memory.
LIMITS = {
    "num_hidden_layers": 256,
    "num_attention_heads": 2**10,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "projection_dim": 2**16,
    "projection_size": 2**16,
    "vocab_size": 2**22,
    "max_position_embeddings": 2**16,
    "image_size": 2**13,
    "patch_size": 2**13,
    "num_channels": 3,
}


def read_config(folder: Path) -> Architecture:
    """Read a folder's config; InputError if it is missing, of another model, or has absurd sizes."""
    return config_of(read_object(folder / CONFIG), str(folder))


def config_of(values: Mapping[str, Any], where: str) -> Architecture:
    """Build the architecture from the values of the config.json in ``where``; raises as ``read_config``."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        if kind == NAFLEX:
            raise InputError(
                f"{where} is a SigLIP 2 of variable resolution (NaFlex), which takes images as lists of patches; take "
                "one of a fixed resolution, such as google/siglip2-base-patch16-224."
            )
        names = ", ".join(family.name for family in FAMILIES.values())
        raise InputError(f"{where} is a model of the type {shown(kind)}; {names} can be used.")
    family = FAMILIES[kind]
    try:
        config = architecture(kind, family.defaults, {**values, **_sections(values, family, where)})
    except ValueError as error:
        raise InputError(f"Cannot read the config of a {family.name} model from {where}: {error}.") from error
    for part, keys in family.defaults.items():
        sizes = [key for key in keys if key in LIMITS]
        if part:
            _check_tower(getattr(config, part), sizes, f"{where} ({part})")
        else:
            for key in sizes:
                _check_size(config, key, where)
    family.check(config, where)
    if config.vision_config.patch_size > config.vision_config.image_size:
        raise InputError(f"The image tower in {where} has patches that are larger than its images.")
    return config


def _sections(values: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """Return the sections of both towers. Older files hold each twice, and what ``..._dict`` says counts."""
    found: dict[str, Any] = {}
    for tower in TOWERS:
        own = f"{family.kind}_{tower.replace('config', 'model')}"
        for name in (tower, f"{tower}_dict"):
            section = values.get(name)
            if section is None:
                continue
            if not isinstance(section, dict) or section.get("model_type") not in (None, family.kind, own):
                raise InputError(f"The {name} in {where} is not one of {family.name}'s.")
            found[tower] = section
    return found


def shapes_of(config: Architecture) -> dict[str, Shape]:
    """Return names and shapes of the weights of a model, without allocating them."""
    return {name: tuple(tensor.shape) for name, tensor in new_model(config).state_dict().items()}


def check_tokenizer(tokenizer: Tokenizer, config: Architecture, where: str) -> None:
    """Raise InputError unless the tokenizer's ids are those that the config's text tower was trained on."""
    text = config.text_config
    if tokenizer.largest_id >= text.vocab_size:
        raise InputError(
            f"The tokenizer in {where} has ids up to {tokenizer.largest_id}, but the CLIP model embeds "
            f"{text.vocab_size} tokens; give the tokenizer it was trained with."
        )
    ends = family_of(config).end_ids(config, tokenizer.largest_id)
    if tokenizer.end_id not in ends:
        raise InputError(
            f"The tokenizer in {where} ends a text with id {tokenizer.end_id}, but the CLIP model with "
            f"{max(ends)}; give the tokenizer it was trained with."
        )


def _check_tower(tower: Any, sizes: list[str], where: str) -> None:
    for key in sizes:
        _check_size(tower, key, where)
    if tower.num_channels != 3 if hasattr(tower, "num_channels") else False:
        raise InputError(f"{where} takes images of {tower.num_channels} colours; 3 are needed.")
    if tower.hidden_size % tower.num_attention_heads:
        raise InputError(
            f"{where} has hidden_size: {tower.hidden_size}, which is not a multiple of its {tower.num_attention_heads} "
            "attention heads."
        )
    try:
        activation(tower.hidden_act)
    except KeyError:
        raise InputError(
            f"{where} names the activation {shown(tower.hidden_act)}, which transformers does not know."
        ) from None
    for key, low in (("layer_norm_eps", 0.0), ("attention_dropout", -1e-9)):
        value = getattr(tower, key)
        if not is_number(value) or not low < value < 1:
            raise InputError(f"{where} has {key}: {shown(value)}, which has to lie between 0 and 1.")


def _check_size(part: Any, key: str, where: str) -> None:
    value = getattr(part, key)
    if type(value) is not int or not 1 <= value <= LIMITS[key]:
        raise InputError(f"{where} has {key}: {shown(value)}; a whole number from 1 to {LIMITS[key]} can be used.")

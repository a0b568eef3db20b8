"""Read a CLIP's activation and head widths, which its tensors do not show, from open_clip's config or the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError, InputError
from gare.common.records import read_object
from gare.common.redact import shown
from gare.model.pixels import OPENAI_PIXELS, Pixels, read_statistics

CONFIG = "open_clip_config.json"
KEYS = ("clip.activation", "clip.image_head_width", "clip.text_head_width")
ACTIVATIONS = ("quick_gelu", "gelu")
HEAD_WIDTH = 64
"""Head width of both towers in OpenAI's models."""

# open_clip's own defaults for missing keys.
VISION = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# Other keys change the computation, except with a value that leaves it as in OpenAI's model.
NEUTRAL: Mapping[str, Any] = {"pos_embed_type": "learnable", "proj_type": "linear"}
POOLING = {"vision_cfg": "tok", "text_cfg": "argmax"}
# How pictures become squares. A random filter is for training; open_clip then evaluates with bicubic.
RESIZES = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
RESIZE_MODES = {"shortest": False, "squash": True}
"""True where whole pictures are squeezed."""
IRRELEVANT = ("patch_dropout", "output_tokens", "pad_id", "init_logit_scale", "custom_text", "cast_dtype")
"""Keys that only affect training, or that name a class whose weights show the same."""


@dataclass(frozen=True)
class Stated:
    """Known values of a CLIP apart from its tensors; None where nothing states one.

    ``sizes``: the sizes that a config states and the tensors must have: section, key -> value. ``origins``: key ->
    where the value was stated.
    """

    activation: str | None = None
    image_head_width: int | None = None
    text_head_width: int | None = None
    sizes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    pixels: Pixels = OPENAI_PIXELS
    origins: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Map the dotted keys to the stated values, None where nothing states one."""
        return {key: getattr(self, key.removeprefix("clip.")) for key in KEYS}


OPENAI = Stated(
    "quick_gelu", HEAD_WIDTH, HEAD_WIDTH, origins=dict.fromkeys(KEYS, "the file, which is OpenAI's model or holds it")
)


def stated_for(file: Path, changes: Mapping[str, Any]) -> Stated:
    """Return the values of the open_clip config next to a file, with ``changes`` (dotted ``clip.`` keys -> values).

    Raises InputError if the config's model is not built like OpenAI's, ConfigError if changes contradict it.
    """
    path = file.parent / CONFIG
    stated = _of_config(path) if path.is_file() else Stated()
    for key, value in changes.items():
        if key not in KEYS:
            raise ConfigError(f"{key} is not a setting of a CLIP model; these are: {', '.join(KEYS)}.")
        if not (value in ACTIVATIONS if key == KEYS[0] else type(value) is int and 1 <= value < 2**16):
            raise ConfigError(f"{key} cannot be {shown(value)}; it is {_choice(key)}.")
        said = stated.values()[key]
        if said not in (None, value):
            raise ConfigError(f"{key} is {said} in {path}; it cannot be set to {value}.")
        origins = {**stated.origins, key: "--set"}
        stated = replace(stated, **{key.removeprefix("clip."): value}, origins=origins)
    return stated


def complete(stated: Stated, *, openai: bool) -> Stated:
    """Complete the known values of a file, ``openai``'s own or not; ConfigError asks for the missing ones."""
    if openai:
        other = [k for k, value in stated.values().items() if value not in (None, OPENAI.values()[k])]
        if other:
            raise ConfigError(f"The file is OpenAI's model, whose {other[0]} is {OPENAI.values()[other[0]]}.")
        return replace(OPENAI, sizes=stated.sizes, pixels=stated.pixels)
    missing = [key for key, value in stated.values().items() if value is None]
    if missing:
        raise ConfigError(
            f"The file does not say how its CLIP computes ({', '.join(missing)}), and it is not OpenAI's own archive: "
            f"put the {CONFIG} it was published with next to it, or give "
            f"{' '.join(f'--set {key}={_choice(key)}' for key in missing)}."
        )
    return stated


def _choice(key: str) -> str:
    return "|".join(ACTIVATIONS) if key == KEYS[0] else "WIDTH"


def _of_config(path: Path) -> Stated:
    values = read_object(path)
    model = values.get("model_cfg", values)
    vision, text = _section(model, "vision_cfg", path), _section(model, "text_cfg", path)
    top = {key: value for key, value in model.items() if key not in ("vision_cfg", "text_cfg")}
    _refuse_others(top, ("embed_dim", "quick_gelu"), "", path)
    _refuse_others(vision, tuple(VISION), "vision_cfg", path)
    _refuse_others(text, tuple(TEXT), "text_cfg", path)
    vision, text = VISION | vision, TEXT | text
    heads = _whole(text["heads"], "text_cfg.heads", path)
    text_width = _whole(text["width"], "text_cfg.width", path)
    if text_width % heads:
        raise InputError(f"{path} has text_cfg.width {text_width}, which {heads} heads do not divide.")
    named = {("vision_cfg", key): vision[key] for key in ("layers", "width", "patch_size", "image_size")}
    named |= {("text_cfg", key): text[key] for key in ("context_length", "vocab_size", "width", "layers")}
    named[("", "embed_dim")] = top.get("embed_dim")
    sizes = {key: _whole(value, ".".join(filter(None, key)), path) for key, value in named.items()}
    for name, section in (("vision_cfg", vision), ("text_cfg", text)):
        ratio = section["mlp_ratio"]
        if type(ratio) not in (int, float) or not 0 < ratio < 100:
            raise InputError(f"{path} has {name}.mlp_ratio {shown(ratio)}, which is not a ratio.")
        sizes[name, "mlp_width"] = int(sizes[name, "width"] * ratio)
    preprocess, quick = values.get("preprocess_cfg") or {}, model.get("quick_gelu", False)
    if not isinstance(preprocess, dict) or type(quick) is not bool:
        raise InputError(
            f"{path} has a preprocess_cfg that is not a mapping or a quick_gelu that is not true or false."
        )
    return Stated(
        activation="quick_gelu" if quick else "gelu",
        image_head_width=_whole(vision["head_width"], "vision_cfg.head_width", path),
        text_head_width=text_width // heads,
        sizes=sizes,
        pixels=_pixels(preprocess, sizes["vision_cfg", "image_size"], path),
        origins=dict.fromkeys(KEYS, CONFIG),
    )


def _pixels(preprocess: Mapping[str, Any], image_size: int, path: Path) -> Pixels:
    """Return how open_clip preprocesses pictures in evaluation."""
    if preprocess.get("mode", "RGB") != "RGB":
        raise InputError(f"{path} takes pictures of the mode {shown(preprocess['mode'])}; RGB can be used.")
    size = preprocess.get("size", image_size)
    if size not in (image_size, [image_size, image_size]):
        raise InputError(f"{path} makes images of {shown(size)} pixels, but its image tower takes {image_size}.")
    resize, mode = preprocess.get("interpolation", "bicubic"), preprocess.get("resize_mode", "shortest")
    if resize not in RESIZES or mode not in RESIZE_MODES:
        raise InputError(
            f"{path} resizes pictures by interpolation {shown(resize)} and resize_mode {shown(mode)}; "
            f"{' or '.join(RESIZES)} and {' or '.join(RESIZE_MODES)} can be used."
        )
    found = read_statistics(preprocess.get("mean"), preprocess.get("std"), path)
    return replace(found, resample=RESIZES[resize], squeezed=RESIZE_MODES[mode])


def _section(model: Any, name: str, path: Path) -> dict[str, Any]:
    section = model.get(name) if isinstance(model, dict) else None
    if not isinstance(section, dict):
        raise InputError(f"{path} is not a config of open_clip: it has no {name}.")
    return section


def _refuse_others(section: Mapping[str, Any], known: tuple[str, ...], name: str, path: Path) -> None:
    """Raise InputError for an unknown key that changes the computation."""
    for key, value in section.items():
        pooled = key == "pool_type" and value == POOLING.get(name)
        neutral = value is None or value is False or value in ("", {}, NEUTRAL.get(key))
        if key not in known and key not in IRRELEVANT and not pooled and not neutral:
            raise InputError(
                f"{path} describes a model that is not built as OpenAI's CLIP: {f'{name}.' if name else ''}{key} is "
                f"{shown(value)}; only models built so can be imported."
            )


def _whole(value: Any, name: str, path: Path) -> int:
    if type(value) is not int or not 1 <= value < 2**24:
        raise InputError(f"{path} has {name} {shown(value)}; a whole number is needed.")
    return value

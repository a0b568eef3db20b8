"""A model folder that loads with nothing else: weights, CLIP's config, tokenizer and the resolved settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.config.tree import load_saved, to_yaml
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
CLIP_FOLDER = "clip"
MODEL_PARTS = (WEIGHTS, CONFIG, CLIP_FOLDER)
"""What of a checkpoint the model is made of; the rest is to train it on."""


def save_model(model: GareModel, config: Config, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the model's part of a checkpoint into an existing folder. ``weights``: in place of its present ones."""
    weights = model.state_dict() if weights is None else weights
    save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(to_yaml(config), encoding="utf-8")
    clip_folder = folder / CLIP_FOLDER
    clip_folder.mkdir(exist_ok=True)
    model.clip.config.save_pretrained(clip_folder)
    if model.tokenizer is not None:
        model.tokenizer.save(clip_folder)


def load_model(checkpoint_dir: str | Path) -> GareModel:
    """The model of a checkpoint folder, in evaluation mode, on the CPU, in float32.

    Raises InputError when the folder is no checkpoint or its weights do not fit its settings.
    """
    folder = Path(checkpoint_dir)
    for name in (WEIGHTS, CONFIG, f"{CLIP_FOLDER}/config.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a checkpoint: it has no {name}.")
    config = load_checkpoint_config(folder)
    clip_folder = folder / CLIP_FOLDER
    tokenizer = Tokenizer.load(clip_folder) if (clip_folder / "tokenizer.json").is_file() else None
    model = GareModel(_empty_clip(clip_folder), config.model, tokenizer)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"Cannot read the weights in {folder / WEIGHTS}: {error}.") from None
    _load_exactly(model, weights, folder)
    return model.eval()


def load_checkpoint_config(folder: Path) -> Config:
    """The resolved settings a checkpoint was made with."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a checkpoint: it has no {CONFIG}.")
    try:
        return load_saved(folder / CONFIG)
    except ConfigError as error:
        raise InputError(
            f"The settings of the checkpoint {folder} are damaged or those of another version of this software: {error}"
        ) from None


def _empty_clip(folder: Path) -> Any:
    """CLIP as its config.json describes it, its weights still to be loaded."""
    from transformers import CLIPConfig, CLIPModel

    try:
        return CLIPModel(CLIPConfig.from_pretrained(folder))
    except Exception as error:  # whatever a damaged file makes of transformers
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"No CLIP model can be made of {folder / 'config.json'}: {first}.") from error


def _load_exactly(model: GareModel, weights: dict[str, object], folder: Path) -> None:
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unknown:
        raise InputError(
            f"The weights in {folder} do not fit its settings: {len(missing)} tensors are missing"
            f"{f' ({missing[0]}, ...)' if missing else ''} and {len(unknown)} are unknown"
            f"{f' ({unknown[0]}, ...)' if unknown else ''}."
        )
    for name, tensor in own.items():
        shape = tuple(weights[name].shape)  # type: ignore[attr-defined]
        if shape != tuple(tensor.shape):
            raise InputError(
                f"The weight {name} in {folder} is {shape}, but its settings ask for {tuple(tensor.shape)}."
            )
    model.load_state_dict(weights)

"""Save and load a self-contained model folder: weights, CLIP's config, tokenizer and the resolved settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.files import atomic_directory, file_digest, write_json
from gare.config import Config
from gare.config.tree import load_saved, to_yaml
from gare.model.architecture import Architecture, write_architecture
from gare.model.clip_config import check_tokenizer, read_config
from gare.model.clip_source import SAFE
from gare.model.gare import GareModel, outline
from gare.model.pixels import OPENAI_PIXELS, Pixels, read_pixels, write_pixels
from gare.model.tokenizer import Tokenizer
from gare.model.towers import family_of
from gare.model.vocabulary import has_tokenizer
from gare.model.weights import as_floats, compare, read_safetensors, shapes_in

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
CLIP_FOLDER = "clip"
EXPORT_FILE = "exported.json"
MODEL_PARTS = (WEIGHTS, CONFIG, CLIP_FOLDER)
"""The parts of a checkpoint that make up the model; the rest serves to continue training."""


def save_model(model: GareModel, config: Config, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the model's part of a checkpoint into an existing folder, with ``weights`` in place of its own if given."""
    weights = model.state_dict() if weights is None else weights
    save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(to_yaml(config), encoding="utf-8")
    clip_folder = folder / CLIP_FOLDER
    clip_folder.mkdir(exist_ok=True)
    write_architecture(model.clip.config, clip_folder, model.family.class_name)
    _save_inputs(model, clip_folder)


def export_clip(checkpoint: Path, folder: Path) -> int:
    """Write the towers, tokenizer and pixel statistics of a checkpoint as a CLIP folder, as ``model.clip`` takes it.

    The temporal transformer and the pair head are left out. Returns the number of parameters. Raises InputError if
    ``checkpoint`` is not a checkpoint, or if the folder cannot be written or holds other things.
    """
    model = load_model(checkpoint)
    with atomic_directory(folder, marker=EXPORT_FILE) as temporary:
        save_clip(model.clip, temporary)
        _save_inputs(model, temporary)
        write_json(
            temporary / EXPORT_FILE,
            {"checkpoint": str(checkpoint.resolve()), "weights_sha256": file_digest(checkpoint / WEIGHTS)},
        )
    return sum(parameter.numel() for parameter in model.clip.parameters())


def save_clip(clip: Any, folder: Path) -> None:
    """Write the weights and the config of both towers into a folder, as transformers saves them."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.state_dict().items()}
    save_file(weights, folder / SAFE, metadata={"format": "pt"})
    write_architecture(clip.config, folder, family_of(clip.config).class_name)


def _save_inputs(model: GareModel, folder: Path) -> None:
    write_pixels(folder, model.pixels, model.image_size)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)


def load_model(checkpoint_dir: str | Path) -> GareModel:
    """Load the model of a checkpoint folder, in evaluation mode, on the CPU, in float32.

    Raises InputError if the folder is not a checkpoint or its parts do not fit each other; both are checked before
    anything of the model's size is allocated.
    """
    folder = Path(checkpoint_dir)
    for name in (WEIGHTS, CONFIG, f"{CLIP_FOLDER}/config.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a checkpoint: it has no {name}.")
    config = load_checkpoint_config(folder)
    architecture, tokenizer, pixels = _read_clip(folder / CLIP_FOLDER)
    shapes = {name: tuple(tensor.shape) for name, tensor in outline(architecture, config.model).state_dict().items()}
    compare(shapes_in(folder / WEIGHTS), shapes, str(folder), "its settings")
    weights = as_floats(read_safetensors(folder / WEIGHTS), str(folder))
    return GareModel.with_weights(architecture, weights, config.model, tokenizer, pixels)


def load_checkpoint_config(folder: Path) -> Config:
    """Load the resolved settings that a checkpoint was made with."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a checkpoint: it has no {CONFIG}.")
    try:
        return load_saved(folder / CONFIG)
    except ConfigError as error:
        if isinstance(error.__context__, OSError):
            raise InputError(str(error)) from None
        raise InputError(
            f"The settings of the checkpoint {folder} are damaged or those of another version of this software: {error}"
        ) from None


def _read_clip(folder: Path) -> tuple[Architecture, Tokenizer | None, Pixels]:
    """Read CLIP's config, tokenizer and pixel statistics from a checkpoint.

    Older checkpoints that record neither text cleaning nor statistics did no cleaning and used OpenAI's statistics.
    """
    architecture = read_config(folder)
    tokenizer = None
    if has_tokenizer(folder):
        tokenizer = family_of(architecture).tokenizer.load(folder, unrecorded="none")
        check_tokenizer(tokenizer, architecture, str(folder))
    return architecture, tokenizer, read_pixels(folder, architecture.vision_config.image_size, OPENAI_PIXELS)

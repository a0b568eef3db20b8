"""Beginning a run with the weights of a checkpoint (``train.init_from``): nothing else of it is taken over."""

from __future__ import annotations

from pathlib import Path

from gare.common.console import warn
from gare.common.errors import InputError
from gare.common.files import file_digest
from gare.config import Config
from gare.config.tree import diff
from gare.model.checkpoint import WEIGHTS, load_checkpoint_config, load_model
from gare.model.gare import GareModel
from gare.runs.run import initial_checkpoint


def warm_start(model: GareModel, config: Config) -> dict[str, str]:
    """Give ``model`` the weights of ``train.init_from``; what to record of where they came from.

    Raises InputError where there is no checkpoint, or one of another architecture, tokenizer or pixel statistics.
    Warns where its texts were cleaned otherwise than this run cleans them.
    """
    folder = initial_checkpoint(config)
    source = load_model(folder)
    _check_same_shapes(model, source, folder, config)
    ours, theirs = model.tokenizer, source.tokenizer
    if ours is not None and theirs is not None and ours != theirs:
        raise InputError(
            f"train.init_from names {folder}, whose tokenizer is not that of model.clip {config.model.clip!r}: its "
            "token embeddings would belong to other words."
        )
    if model.pixels != source.pixels:
        raise InputError(
            f"train.init_from names {folder}, whose frames were normalised by {source.pixels}, not by "
            f"{model.pixels} as those of model.clip {config.model.clip!r}."
        )
    if ours is not None and theirs is not None and ours.cleaning != theirs.cleaning:
        warn(
            f"train.init_from names {folder}, trained with text_cleaning {theirs.cleaning!r}; this run cleans captions "
            f"by {ours.cleaning!r}, the rule of model.clip {config.model.clip!r}."
        )
    model.load_state_dict(source.state_dict())
    return {
        "checkpoint": str(folder),
        "weights_sha256": file_digest(folder / WEIGHTS),
        "config_digest": load_checkpoint_config(folder).digest(),
    }


def _check_same_shapes(model: GareModel, source: GareModel, folder: Path, config: Config) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    other = {name: tuple(tensor.shape) for name, tensor in source.state_dict().items()}
    if own == other:
        return
    name = next(name for name in sorted(own | other) if own.get(name) != other.get(name))
    keys = [key for key in diff(load_checkpoint_config(folder), config) if key.startswith("model.")]
    raise InputError(
        f"train.init_from names {folder}, a model of another architecture: {name} is {_shape(other, name)} there and "
        f"{_shape(own, name)} here ({', '.join(keys) or 'model.clip'} differ{'' if len(keys) > 1 else 's'})."
    )


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "absent"

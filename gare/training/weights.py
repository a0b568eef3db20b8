"""Load the weights that a run starts with (``train.init_from``), and check that all ranks have the same weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from gare.common.console import warn
from gare.common.errors import InputError, RunError
from gare.common.files import file_digest
from gare.config import Config
from gare.config.tree import diff
from gare.model.checkpoint import WEIGHTS, load_checkpoint_config, load_model
from gare.model.gare import GareModel
from gare.model.weights import weights_digest
from gare.objective.world import World
from gare.runs.run import initial_checkpoint

TOWERS = "clip."
"""Prefix of the tensors of CLIP's towers."""

ROUNDING = 1e-3
"""Ranks on processors of different kinds differ by less than this, as a share of a tensor's largest weight."""


def warm_start(model: GareModel, config: Config) -> dict[str, str]:
    """Give ``model`` the weights of ``train.init_from``; return their origin for the record.

    The checkpoint may have another pair head or other temporal blocks: tensors that fit are used, and a warning names
    the rest. Raises InputError if there is no checkpoint, or if its towers, the shape of any tensor, its tokenizer or
    its pixel statistics differ. Warns if it cleaned texts by another rule.
    """
    folder = initial_checkpoint(config)
    source = load_model(folder)
    own, other = _shapes(model), _shapes(source)
    _check_fits(own, other, folder, config)
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
    model.load_state_dict(source.state_dict(), strict=False)
    fresh, unused = own.keys() - other.keys(), other.keys() - own.keys()
    if fresh or unused:
        parts = [f"not taken: {_parts(unused)}"] * bool(unused) + [f"new here: {_parts(fresh)}"] * bool(fresh)
        warn(
            f"train.init_from names {folder}, a model that differs in {_differing(folder, config)}; {'; '.join(parts)}."
        )
    return {
        "checkpoint": str(folder),
        "weights_sha256": file_digest(folder / WEIGHTS),
        "config_digest": load_checkpoint_config(folder).digest(),
    }


Shapes = dict[str, tuple[int, ...]]


def _shapes(model: GareModel) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_fits(own: Shapes, other: Shapes, folder: Path, config: Config) -> None:
    """Raise InputError if the towers differ, or a tensor of both models has two shapes."""
    both = own.keys() & other.keys()
    for name in sorted(own | other):
        if own.get(name) != other.get(name) and (name in both or name.startswith(TOWERS)):
            keys = _differing(folder, config)
            raise InputError(
                f"train.init_from names {folder}, a model of another architecture: {name} is {_shape(other, name)} "
                f"there and {_shape(own, name)} here ({keys} differ{'' if ',' in keys else 's'})."
            )


def _differing(folder: Path, config: Config) -> str:
    keys = [key for key in diff(load_checkpoint_config(folder), config) if key.startswith("model.")]
    return ", ".join(keys) or "model.clip"


def _parts(names: Iterable[str]) -> str:
    """Return the modules of the tensors with their numbers: ``head.psi (12), temporal.blocks (24)``."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({count} tensors)" for part, count in sorted(counts.items()))


def _shape(shapes: Shapes, name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "absent"


@torch.no_grad()
def share_weights(model: nn.Module, world: World) -> None:
    """Give every rank the weights of rank 0: processors draw and round a little differently."""
    for tensor in model.state_dict().values():
        world.share(tensor)


def check_same_weights(model: nn.Module, world: World, when: str) -> None:
    """Check that all ranks have rank 0's weights, and copy them again if they differ by rounding only.

    Raises RunError on every rank, naming ``when``, if a rank differs by more.
    """
    if world.size == 1:
        return
    found = world.gather_texts(weights_digest(model))
    if len(set(found)) == 1:
        return
    apart = [float(text) for text in world.gather_texts(repr(_distance(model, world)))]
    others = [str(rank) for rank, distance in enumerate(apart) if not distance <= ROUNDING]
    if others:
        raise RunError(
            f"{when} the weights of rank {', '.join(others)} are not those of rank 0, so the ranks do not train one "
            "model. Look at the memory and the software of those machines; the same command continues from the last "
            "checkpoint."
        )
    share_weights(model, world)
    if world.rank == 0:
        warn(
            f"{when} the weights of the ranks differed by up to {max(apart):.1e}: their processors are of different "
            "kinds and round differently. All have the weights of rank 0 again."
        )


@torch.no_grad()
def _distance(model: nn.Module, world: World) -> float:
    """Return the distance from rank 0's weights: the largest difference over the largest weight of its tensor."""
    largest = 0.0
    for tensor in model.state_dict().values():
        first = tensor.clone()
        world.share(first)
        scale = first.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        apart = float((tensor.double() - first.double()).abs().max() / scale)
        largest = max(largest, math.inf if math.isnan(apart) else apart)
    return largest

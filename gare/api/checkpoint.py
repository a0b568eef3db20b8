"""Open a checkpoint, or a CLIP without training, together with the shards that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gare.api.settings import Place, place_text
from gare.common.console import warn
from gare.common.errors import ConfigError
from gare.common.nodes import usable_cpus
from gare.config import Config, ModelConfig, PrepareConfig
from gare.config.tree import Overrides, build, parse_overrides, with_overrides
from gare.data.batches import unlike_prepared
from gare.data.cache import Cache
from gare.data.shards import ShardSet
from gare.model.checkpoint import load_checkpoint_config
from gare.model.checkpoint import load_model as load_checkpoint
from gare.model.gare import GareModel
from gare.runs.inputs import check_recipe, choose_device
from gare.runs.storage import find_checkpoint
from gare.training.numerics import numerics

DETERMINISTIC = "train.deterministic"


def load_model(checkpoint: Place) -> GareModel:
    """Load the model of a checkpoint, or of a run's best one, in evaluation mode, on the CPU, in float32.

    ``checkpoint``: folder or address of either. Raises InputError if it is neither, or if its parts do not fit each
    other; both are checked before anything of the model's size is allocated.
    """
    return load_checkpoint(find_checkpoint(place_text("checkpoint", checkpoint)))


@contextmanager
def open_checkpoint(
    checkpoint: Place, shards: Place, *overrides: Overrides
) -> Iterator[tuple[Path, GareModel, ShardSet, Config]]:
    """Open a checkpoint (or the best one of a run) and shards; yield folder, model on its device, shards, settings.

    The settings are those of the training, adapted to this machine, with the overrides; the block computes as they
    say (``numerics``). Raises ConfigError for an override of a setting that training depended on.
    """
    changes = usable(overrides, "is part of what was trained; a checkpoint")
    folder = find_checkpoint(place_text("checkpoint", checkpoint))
    dataset = open_dataset(shards, changes)
    config = load_checkpoint_config(folder)
    config = with_overrides(config, of_this_machine(config) | changes)
    with numerics(config):
        model = load_checkpoint(folder).to(choose_device(config.runtime.device))
        try:
            check_recipe(config, dataset)
        except ConfigError as error:
            warn(f"{error} Scores on these shards may differ for that alone.")
        yield folder, model, dataset, config


def open_clip(clip: str, shards: Place, *overrides: Overrides) -> tuple[GareModel, ShardSet, Config]:
    """Open CLIP's towers (folder or hub id) without training, and shards; return both with fitting settings.

    A video is the mean of its frames' normalised embeddings. Raises ConfigError for an override of a training setting.
    """
    changes = usable(overrides, "is part of training, which CLIP without training has none of; it")
    dataset = open_dataset(shards, changes)
    model = GareModel.from_clip(clip, ModelConfig(head="mean_pool", temporal_layers=0))
    values = Config().model_dump(mode="json")
    values["prepare"] |= {key: value for key, value in dataset.recipe.items() if key in PrepareConfig.model_fields}
    stored = values["prepare"]["max_frames"]
    values["model"] |= {"clip": clip, "max_frames": max(stored, values["model"]["max_frames"])}
    values["data"] |= {"frames": stored, "words": int(model.clip.config.text_config.max_position_embeddings)}
    config = with_overrides(build(values, str(dataset.folder)), changes)
    unlike = unlike_prepared(model.pixels, dataset.short_side, config.data)
    if unlike is not None:
        warn(unlike)
    return model.eval().to(choose_device(config.runtime.device)), dataset, config


def of_this_machine(config: Config) -> dict[str, Any]:
    """Return replacements for a checkpoint's settings that depend on the machine it was trained on."""
    return {
        "runtime.device": "auto",
        "runtime.cpu_threads": min(config.runtime.cpu_threads, usable_cpus()),
    }


def open_dataset(shards: Place, changes: dict[str, Any]) -> ShardSet:
    """Open shards; this machine decides where copies of them are kept, not a checkpoint's settings."""
    here = {name: value for name, value in changes.items() if name.startswith("runtime.cache")}
    return ShardSet(place_text("shards", shards), Cache.of(with_overrides(Config(), here).runtime))


def usable(overrides: tuple[Overrides, ...], why: str) -> dict[str, Any]:
    """Merge overrides by dotted key. Raises ConfigError for a key that training depended on."""
    changes: dict[str, Any] = {}
    for one in overrides:
        changes |= parse_overrides(one)
    fixed = [name for name in changes if not name.startswith(("runtime.", "data.")) and name != DETERMINISTIC]
    if fixed:
        raise ConfigError(f"{fixed[0]} {why} takes only runtime and data settings and {DETERMINISTIC}.")
    return changes

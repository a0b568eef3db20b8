"""What commands that use a checkpoint share: their arguments, and opening it beside its shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.common.console import warn
from gare.common.errors import ConfigError
from gare.common.nodes import usable_cpus

if TYPE_CHECKING:
    from gare.config import Config
    from gare.data.shards import ShardSet
    from gare.model.gare import GareModel

CHECKPOINT = click.argument("checkpoint")
SHARDS = click.option("--shards", required=True, help="Folder or address of gare prepare.")
DETERMINISTIC = "train.deterministic"
SPLIT = click.option("--split", default="test", show_default=True, help="Split to use.")


@contextmanager
def open_checkpoint(
    checkpoint: str, shards: str, overrides: tuple[str, ...]
) -> Iterator[tuple[Path, GareModel, ShardSet, Config]]:
    """Checkpoint folder, its model on its device, the shards, and its settings with the overrides.

    The block computes as these settings say (``numerics``).
    """
    from gare.config.tree import with_overrides
    from gare.model.checkpoint import load_checkpoint_config, load_model
    from gare.runs.inputs import check_recipe, choose_device
    from gare.runs.storage import find_checkpoint
    from gare.training.numerics import numerics

    changes = usable(overrides, "is part of what was trained; a checkpoint")
    folder = find_checkpoint(checkpoint)
    dataset = open_dataset(shards, changes)
    config = load_checkpoint_config(folder)
    config = with_overrides(config, of_this_machine(config) | changes)
    with numerics(config):
        model = load_model(folder).to(choose_device(config.runtime.device))
        try:
            check_recipe(config, dataset)
        except ConfigError as error:
            warn(f"{error} Scores on these shards may differ for that alone.")
        yield folder, model, dataset, config


def of_this_machine(config: Config) -> dict[str, Any]:
    """What of a checkpoint's settings was for the machine it was trained on, as it is here."""
    return {
        "runtime.device": "auto",
        "runtime.cpu_threads": min(config.runtime.cpu_threads, usable_cpus()),
    }


def open_dataset(shards: str, changes: dict[str, Any]) -> ShardSet:
    """The shards; where copies of them lie is this machine's matter, not that of the settings of a checkpoint."""
    from gare.config import Config
    from gare.config.tree import with_overrides
    from gare.data.cache import Cache
    from gare.data.shards import ShardSet

    here = {name: value for name, value in changes.items() if name.startswith("runtime.cache")}
    return ShardSet(shards, Cache.of(with_overrides(Config(), here).runtime))


def usable(overrides: tuple[str, ...], why: str) -> dict[str, Any]:
    """The values of --set by dotted key; ConfigError for a key that what was trained depends on."""
    from gare.config.tree import parse_override

    changes = dict(parse_override(text) for text in overrides)
    fixed = [name for name in changes if not name.startswith(("runtime.", "data.")) and name != DETERMINISTIC]
    if fixed:
        raise ConfigError(f"{fixed[0]} {why} takes --set of runtime and data keys and {DETERMINISTIC}.")
    return changes

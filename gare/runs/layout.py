"""A run's folder, the names in it, and the places that its settings name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError
from gare.common.storage import is_address
from gare.config import Config
from gare.config.tree import build

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
CHECKPOINTS = "checkpoints"
DIAGNOSTICS = "diagnostics"
CHECKPOINT_FILE = "checkpoint.json"
CHECKPOINT_NAME = re.compile(r"(epoch|step)-\d+")
PLACES = ("model.clip", "train.init_from")
"""Settings of the experiment that may name a folder, which may move."""


def run_directory(config: Config) -> Path:
    """Return the folder of this run: ``runtime.output`` / its name."""
    return Path(config.runtime.output) / config.run_name()


def from_root(config: Config, path: str) -> Path:
    """Resolve a relative path of the settings below ``runtime.root``."""
    return Path(config.runtime.root or ".") / path


def clip_source(config: Config) -> str:
    """Find ``model.clip``: the folder of that name below ``runtime.root`` if it exists, else a hub id."""
    folder = from_root(config, config.model.clip)
    return str(folder) if folder.is_dir() else config.model.clip


def absolute(config: Config) -> Config:
    """Make the places of an experiment absolute, since workers run in other folders.

    ``model.clip`` stays unchanged, since it is part of the experiment; ``clip_source`` finds it from ``runtime.root``.
    Raises ConfigError for an output that is not on a file system.
    """
    runtime = config.runtime
    root = Path(runtime.root or ".").resolve()
    if is_address(runtime.output):
        raise ConfigError(
            f"runtime.output is {runtime.output}, but runs are written in a folder of a file system; "
            "set runtime.storage to the address, and they are copied there and continued from there."
        )
    changes = {"root": str(root), "name": config.run_name()}
    for name in ("output", "shards", "storage"):
        place = getattr(runtime, name)
        if place is not None and not is_address(place):
            changes[name] = str(root / place)
    # Only places change, so no new validation is needed.
    return config.model_copy(update={"runtime": runtime.model_copy(update=changes)})


def moved(config: Config, folder: Path) -> Config:
    """Adapt the saved settings of a run or sweep to its present ``folder``, possibly moved with its project.

    Absolute places below the moved folder follow if they moved along: they exist at the new place, and are gone from
    the old one or were copied with the shards. Unchanged if the folder was not moved, or has another name.
    """
    name = Path(config.run_name()).parts
    old, new = run_directory(config), folder.resolve()
    if not old.is_absolute() or old.resolve() == new or new.parts[-len(name) :] != name:
        return config
    output = new.parents[len(name) - 1]
    while old.name == new.name:
        old, new = old.parent, new.parent
    values: dict[str, Any] = config.model_dump(mode="json")
    copied = _followed(values["runtime"]["shards"], old, new) is not None
    keys = ("runtime", "root"), ("runtime", "shards"), ("runtime", "storage"), ("model", "clip"), ("train", "init_from")
    for section, key in keys:
        there = _followed(values[section][key], old, new)
        if there is not None and ((section == "runtime" and copied) or not Path(values[section][key]).exists()):
            values[section][key] = there
    values["runtime"]["output"] = str(output)
    return build(values)


def _followed(place: str | None, old: Path, new: Path) -> str | None:
    """Return the place below ``new`` that corresponds to one below ``old``; None if it does not exist."""
    if place is None or not Path(place).is_relative_to(old):
        return None
    there = new / Path(place).relative_to(old)
    return str(there) if there.exists() else None

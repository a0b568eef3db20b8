"""Opening a run: begun in its folder, or taken up where it is the same experiment on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError, InputError
from gare.common.files import digest_of, make_folder, write_text
from gare.common.occupied import refuse_occupied
from gare.common.storage import is_address
from gare.config import NOT_THE_EXPERIMENT, Config, without_later, yaml
from gare.config.tree import build_saved, diff, to_yaml
from gare.runs.run import (
    CHECKPOINT_NAME,
    CHECKPOINTS,
    CONFIG_FILE,
    OBJECTIVE,
    PLACES,
    RUN_FILE,
    RunState,
    from_root,
    read_state,
    run_directory,
    selected_by,
    write_state,
)
from gare.runs.storage import find_checkpoint


def open_run(config: Config, dataset_digest: str) -> RunState:
    """Start the run's folder, or take up the one that is there.

    What an attempt left that ended before its first checkpoint gives way to other settings. Raises ConfigError when
    the folder holds another experiment or other data.
    """
    folder = run_directory(config)
    state = read_state(folder)
    wanted = (config.digest(), dataset_digest)
    if config.train.init_from is not None and (state is None or state.last is None):
        initial_checkpoint(config)
    if state is None:
        refuse_occupied(folder)
        _refuse_orphans(folder)
    if state is None or (state.last is None and (state.config_digest, state.dataset_digest) != wanted):
        make_folder(folder)
        write_text(folder / CONFIG_FILE, to_yaml(config))
        state = RunState(config.digest(), dataset_digest, selected_by(config), objective=OBJECTIVE)
        write_state(folder, state)
        return state
    refuse_other(config, folder, state, dataset_digest)
    return state


def _refuse_orphans(folder: Path) -> None:
    """InputError for checkpoints of a run whose record is lost: begun anew, it would remove them."""
    above = folder / CHECKPOINTS
    names = [path.name for path in above.iterdir()] if above.is_dir() else []
    left = sorted(name for name in names if CHECKPOINT_NAME.fullmatch(name))
    if left:
        raise InputError(
            f"{folder} holds checkpoints ({', '.join(left[-3:])}), but {RUN_FILE}, which says how far the run is, is "
            "gone. Nothing was changed: put that file back, or choose another runtime.name."
        )


def refuse_other(
    config: Config, folder: Path, state: RunState, dataset_digest: str | None, *, extend: bool = False
) -> None:
    """ConfigError when a run's folder holds another experiment or other data; None where the data is not known.

    ``extend``: a finished run is to be trained further.
    """
    if state.config_digest != config.digest() and (keys := _changed(config, folder, state)):
        raise ConfigError(
            f"The run {folder} holds another experiment ({', '.join(keys[:5])} differ); choose another runtime.name."
        )
    if dataset_digest is not None and state.dataset_digest != dataset_digest:
        raise ConfigError(
            f"The run {folder} was trained on other shards (dataset {state.dataset_digest}, not {dataset_digest}); "
            "choose another runtime.name."
        )
    before = outdated(config, state)
    if before is not None and state.last is not None and (extend or not state.finished):
        raise ConfigError(f"The run {folder} began when {before}. Start again under another runtime.name.")


def outdated(config: Config, state: RunState) -> str | None:
    """Say what was computed otherwise when a run began, of what its settings use; None where nothing was."""
    if state.objective >= OBJECTIVE:
        return None
    term = config.objective.information_bottleneck
    if term.weight and config.shared_anchor() == term.anchor:
        return (
            "objective.information_bottleneck of factorised increments was about three times as large, as their "
            "dropout was taken"
        )
    if config.data.augment == "rand":
        return "data.augment rand warped pictures by another interpolation and filled with black"
    return None


def _changed(config: Config, folder: Path, state: RunState) -> list[str]:
    """The keys by which the experiment of a run's folder is another one; ``RUN_FILE`` where no key says so.

    A setting that came after the run was begun is no difference where it has its default; nor is a folder that moved.
    """
    values = yaml.read(folder / CONFIG_FILE)
    saved = build_saved(values, str(folder / CONFIG_FILE))
    keys = [
        key
        for key, (before, now) in diff(saved, config).items()
        if not key.startswith(("runtime.", "sweep.")) and not (key in PLACES and _was_moved(before, now))
    ]
    return keys or ([] if state.config_digest in _names(values) | {saved.digest()} else [RUN_FILE])


def _was_moved(before: str | None, now: str | None) -> bool:
    """Whether a folder that is part of the experiment seems to be the one that was elsewhere before."""
    if before is None or now is None or not Path(before).is_absolute():
        return False
    return not Path(before).exists() and Path(now).is_dir() and Path(before).name == Path(now).name


def _names(values: Mapping[str, Any]) -> set[str]:
    """The digests that versions of this software gave to saved settings: each left out some of what came later."""
    tree = {name: dict(value) for name, value in values.items() if name not in NOT_THE_EXPERIMENT}
    return {digest_of(earlier) for earlier in without_later(tree)}


def initial_checkpoint(config: Config) -> Path:
    """The checkpoint folder of ``train.init_from``, which may name a run (then its best one).

    Raises ConfigError for a checkpoint that has seen the test split, unless this run may (``protocol.test``).
    """
    from gare.model.checkpoint import load_checkpoint_config

    place = str(config.train.init_from)
    folder = find_checkpoint(place if is_address(place) else from_root(config, place))
    if config.protocol.test == "held_out" and load_checkpoint_config(folder).protocol.test == "used":
        raise ConfigError(
            f"train.init_from names {folder}, which was trained or chosen on the test split by its settings "
            "(protocol.test is used there); begin with another checkpoint, or set protocol.test=used here too."
        )
    return folder

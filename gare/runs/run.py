"""Open a run once per process, check that it may continue, and extend a finished one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError, InputError
from gare.common.files import digest_of, make_folder, write_text
from gare.common.locks import exclusive_lock
from gare.common.occupied import refuse_occupied
from gare.common.storage import Folder, is_address
from gare.config import NOT_THE_EXPERIMENT, Config, without_later, yaml
from gare.config.tree import build, build_saved, diff, to_yaml
from gare.data.cache import Cache
from gare.data.shards import ShardSet
from gare.model.checkpoint import load_checkpoint_config
from gare.runs.inputs import TrainingData, check_settings, open_shards, training_data
from gare.runs.layout import (
    CHECKPOINT_NAME,
    CHECKPOINTS,
    CONFIG_FILE,
    PLACES,
    RUN_FILE,
    absolute,
    from_root,
    run_directory,
)
from gare.runs.state import OBJECTIVE, RunState, progress, read_state, selected_by, write_state
from gare.runs.storage import RunStorage, find_checkpoint
from gare.tracking.record import forget


class Run:
    """A run as one process knows it: settings, folder, shards, splits, storage and record, each opened once.

    Make one with ``Run.open`` in the process that starts a run, and with ``Run.attach`` in those that train it; every
    function of a run takes it. Storage, shards, splits and record are opened on first use.

    Args:
        config: Settings with absolute places.
        frames: True if this process reads frames, as in ``ShardSet``.
        dataset: Digest that the shards must have; None for any.

    """

    def __init__(self, config: Config, *, frames: bool = True, dataset: str | None = None) -> None:
        self.config, self._frames, self._dataset = config, frames, dataset
        self.folder = run_directory(config)
        self._state: RunState | None = None

    @classmethod
    def open(cls, config: Config, *, frames: bool = True) -> Run:
        """Open the run of these settings, whose relative places are below ``runtime.root`` or the working directory."""
        return cls(absolute(config), frames=frames)

    @classmethod
    def of(cls, run: Run | Config, *, frames: bool = True) -> Run:
        """Return a run unchanged, or open that of settings."""
        return run if isinstance(run, Run) else cls.open(run, frames=frames)

    def description(self) -> dict[str, Any]:
        """Return plain values from which ``attach`` makes this run in another process, perhaps on another machine."""
        return {"config": self.config.model_dump(mode="json"), "dataset": self.shards.digest}

    @classmethod
    def attach(cls, description: Mapping[str, Any]) -> Run:
        """Make the run that another process opened and described, with frames."""
        return cls(build(description["config"]), dataset=description["dataset"])

    @cached_property
    def storage(self) -> RunStorage:
        """The copy on storage. Raises InputError if the address cannot be opened."""
        return RunStorage(self.config, self.folder)

    @cached_property
    def shards(self) -> ShardSet:
        """The dataset. Raises ConfigError or InputError if there is none, or it is not the run's."""
        shards = open_shards(self.config, frames=self._frames)
        if self._dataset not in (None, shards.digest):
            raise InputError(
                f"{shards.folder} holds other shards here (dataset {shards.digest}) than where the run was started "
                f"(dataset {self._dataset}): runtime.shards must name the same dataset on every node."
            )
        return shards

    @property
    def copied(self) -> bool:
        """Return True if its shards are copied to each node."""
        shards = self.config.runtime.shards
        return shards is not None and Cache.of(self.config.runtime).wants(Folder.at(shards))

    @cached_property
    def data(self) -> TrainingData:
        """The splits and steps. Raises ConfigError or InputError if these settings cannot train on these shards."""
        check_settings(self.config)
        return training_data(self.config, self.shards)

    def take_up(self) -> RunState:
        """Return its record: that of the folder or of the copy on storage, whichever is further, else a new one.

        Raises ConfigError if the folder holds another experiment or other data.
        """
        if self._state is None:
            digest = self.shards.digest
            self.storage.pull()
            self._state = open_run(self.config, digest)
        return self._state

    def hand_over(self) -> RunState:
        """Return its record to the code that trains it and changes it; after that, ``take_up`` reads it again."""
        state, self._state = self.take_up(), None
        return state

    def extend(self, epochs: int) -> str:
        """Make the next start of the finished run train ``epochs`` more, and return a message; nothing is trained here.

        They are a separate stage, over which the learning rate rises and falls once more, from the optimiser's state at
        the end of the last one. A run whose last extension has the same number of epochs and was interrupted stays
        unchanged. Raises ConfigError if there is no finished run of these settings and shards.
        """
        folder, config, digest = self.folder, self.config, self.shards.digest
        with exclusive_lock(folder), self.storage.held():
            self.storage.pull()
            state = read_state(folder)
            if state is None or state.last is None:
                raise ConfigError(f"There is no finished run in {folder} to extend; train it without --extend first.")
            refuse_other(config, folder, state, digest, extend=True)
            if not state.finished:
                if state.extended[-1:] != [epochs]:
                    raise ConfigError(
                        f"The run {folder} is not finished, at {progress(state.epoch, state.step)} of "
                        f"{state.epochs(config)} epochs; the same command without --extend continues it."
                    )
                return f"The run {folder} is already extended by {epochs} epochs, and continues."
            state.extended.append(epochs)
            state.finished = False
            write_state(folder, state)
            self.storage.push(state)
        self._state = None
        return (
            f"The run {folder} is extended from {state.epoch} to {state.epochs(config)} epochs; over the added ones "
            "the learning rate rises and falls once more."
        )


def open_run(config: Config, dataset_digest: str) -> RunState:
    """Start the run's folder, or continue with the existing one.

    Other settings may replace an attempt that ended before its first checkpoint. Raises ConfigError if the folder holds
    another experiment or other data.
    """
    folder = run_directory(config)
    state = read_state(folder)
    wanted = (config.digest(), dataset_digest)
    if config.train.init_from is not None and (state is None or state.last is None):
        initial_checkpoint(config)
    if state is None:
        refuse_occupied(folder)
        _refuse_orphans(folder)
    if state is None or (state.last is None and state.trains != wanted):
        make_folder(folder)
        if state is not None:
            forget(folder)
        write_text(folder / CONFIG_FILE, to_yaml(config))
        state = RunState(config.digest(), dataset_digest, selected_by(config), objective=OBJECTIVE)
        write_state(folder, state)
        return state
    refuse_other(config, folder, state, dataset_digest)
    return state


def _refuse_orphans(folder: Path) -> None:
    """Raise InputError for checkpoints of a run whose record is lost: a new run would remove them."""
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
    """Raise ConfigError if a run's folder holds another experiment or other data.

    ``dataset_digest``: None if the data is not known. ``extend``: a finished run is to be trained further.
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
    """Describe a computation that this run uses and that has changed since it began; None if there is none."""
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
    """Return the keys that differ from the experiment in a run's folder; ``RUN_FILE`` if only the digest differs.

    A setting that was added after the run began does not differ at its default; nor does a folder that moved.
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
    """Return True if the place of a folder of the experiment changed because it was moved."""
    if before is None or now is None or not Path(before).is_absolute():
        return False
    return not Path(before).exists() and Path(now).is_dir() and Path(before).name == Path(now).name


def _names(values: Mapping[str, Any]) -> set[str]:
    """Return the digests that earlier versions gave to saved settings; each left out settings that were added later."""
    tree = {name: dict(value) for name, value in values.items() if name not in NOT_THE_EXPERIMENT}
    return {digest_of(earlier) for earlier in without_later(tree)}


def initial_checkpoint(config: Config) -> Path:
    """Return the checkpoint folder of ``train.init_from``, which may name a run (then its best one).

    Raises ConfigError for a checkpoint that has seen the test split, unless this run may (``protocol.test``).
    """
    place = str(config.train.init_from)
    folder = find_checkpoint(place if is_address(place) else from_root(config, place))
    if config.protocol.test == "held_out" and load_checkpoint_config(folder).protocol.test == "used":
        raise ConfigError(
            f"train.init_from names {folder}, which was trained or chosen on the test split by its settings "
            "(protocol.test is used there); begin with another checkpoint, or set protocol.test=used here too."
        )
    return folder

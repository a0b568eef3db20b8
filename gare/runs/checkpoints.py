"""Checkpoints: a folder each, with everything that a run needs to continue; each also loads as a model.

They are made one at a time, and the best and the last are kept. A thread writes a copy of the state while the next
steps run.
"""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from gare.common.console import warn
from gare.common.errors import GareError, InputError
from gare.common.files import atomic_directory, write_json
from gare.config import Config
from gare.model.archive import check_entries
from gare.model.checkpoint import load_model, save_model
from gare.model.gare import GareModel
from gare.objective.world import World
from gare.runs.layout import CHECKPOINT_FILE, CHECKPOINT_NAME, CHECKPOINTS
from gare.runs.run import Run
from gare.runs.state import RunState, write_state

TRAINER_FILE = "trainer.pt"

_LEFT_BEHIND = re.compile(r"\..*\.(tmp|old)")


class Checkpoints:
    """The run's checkpoints, made by rank 0; on other ranks every call does nothing.

    ``run.json`` names a checkpoint only when it is complete on disk, and older ones are removed only after that. At
    most one is being written: the next one waits for it. A write error is raised at the next step. ``whole``: the
    checkpoint from which the run was resumed.
    """

    def __init__(self, run: Run, world: World, parts: Parts, whole: str | None) -> None:
        self._config, self._parts, self._active = run.config, parts, world.rank == 0
        self._folder, self._storage = run.folder, run.storage
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._whole = whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the write in progress."""
        try:
            self._settle()
        except GareError as late:
            if error is None or error is late:
                raise
            warn(str(late))  # the error that ended the run takes precedence
        finally:
            self._writer.shutdown()

    def after_step(self, state: RunState, seconds: float, per_epoch: int) -> None:
        """Make a checkpoint if one is due (``runtime.checkpoint_every_steps``); an epoch's end has its own.

        ``seconds``: the run's time so far; ``per_epoch``: batches in an epoch. Raises the error of an earlier write.
        """
        if self._writing is not None and self._writing.done():
            self._settle()
        every = self._config.runtime.checkpoint_every_steps
        if every is not None and state.step % every == 0 and state.batch < per_epoch:
            self._save(state, seconds, {})

    def now(self, state: RunState, seconds: float) -> None:
        """Make a checkpoint between two steps unless there is one of the last; ``seconds``: as in ``after_step``."""
        if state.step and state.last != checkpoint_name(state):
            self._save(state, seconds, {})

    def after_epoch(self, state: RunState, seconds: float, metrics: dict[str, float]) -> None:
        """Make the checkpoint of an epoch's end; ``metrics`` on dev, empty if no dev split is held out."""
        state.finished = state.epoch == state.epochs(self._config)
        rank(state, checkpoint_name(state), metrics, self._config)
        self._save(state, seconds, metrics)

    def _save(self, state: RunState, seconds: float, metrics: dict[str, float]) -> None:
        state.last, state.seconds = checkpoint_name(state), seconds
        if self._active:
            self._settle()
            job = (self._parts.model, deepcopy(state), Snapshot.of(self._parts), metrics)
            self._writing = self._writer.submit(self._write, *job)

    def _settle(self) -> None:
        """Wait for the write in progress, if there is one, and raise its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, model: GareModel, state: RunState, snapshot: Snapshot, metrics: dict[str, float]) -> None:
        try:
            write_checkpoint(self._folder, model, self._config, state, snapshot, metrics)
            write_state(self._folder, state)
        except GareError as error:
            before = (
                f"The checkpoint before it ({self._whole}) is complete" if self._whole else "There is none before it"
            )
            raise error.adding(f"{before}; when there is room, the same command continues.") from error
        self._whole = state.last
        self._copy(state)
        remove_stale_checkpoints(self._folder, state)

    def _copy(self, state: RunState) -> None:
        """Bring the copy on storage up to date; storage only has to be reachable at the run's end."""
        try:
            self._storage.push(state)
        except InputError as error:
            if state.finished:
                raise error.adding(f"The run is complete in {self._folder}; the same command copies it.") from error
            warn(f"{error} Training continues; the next checkpoint is copied with what is missing.")


def rank(state: RunState, name: str, metrics: dict[str, float], config: Config) -> None:
    """Rank the checkpoint of an epoch's end among the best ones (``train.select_by``, ``runtime.keep_best``).

    Ties keep the earlier checkpoint. Without metrics the newest is the best.
    """
    if not metrics:
        state.best, state.best_metrics = name, {}
        return
    key = f"dev/{config.train.select_by}"
    if state.best is not None:  # an older record, which names only the best one
        state.kept.setdefault(state.best, state.best_metrics[key])
    order = sorted((state.kept | {name: metrics[key]}).items(), key=lambda entry: -entry[1])
    state.kept = dict(order[: config.runtime.keep_best])
    if order[0][0] == name:
        state.best, state.best_metrics = name, metrics


class Stateful(Protocol):
    """Anything with a state of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Return its state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Restore a state."""


@dataclass(frozen=True)
class Parts:
    """Everything that training changes. ``extras``: by name, other things with a state.

    ``averaged``: returns the weights to evaluate and save, if they are not the model's own.
    """

    model: GareModel
    optimiser: Optimizer
    extras: Mapping[str, Stateful]
    averaged: Callable[[], dict[str, Tensor]] | None = None


@dataclass(frozen=True)
class Snapshot:
    """The state of ``Parts`` at one moment, on the CPU, independent of later changes."""

    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    extras: dict[str, Any]

    @classmethod
    def of(cls, parts: Parts) -> Snapshot:
        """Copy the present state."""
        extras = {name: part.state_dict() for name, part in parts.extras.items()}
        weights = parts.model.state_dict() if parts.averaged is None else parts.averaged()
        return cls(_copied(weights), _copied(parts.optimiser.state_dict()), _copied(extras))


def checkpoint_name(state: RunState) -> str:
    """Return the checkpoint's folder name: by the epoch at an epoch's end, else by the step."""
    return f"step-{state.step:08d}" if state.batch else f"epoch-{state.epoch:04d}"


def write_checkpoint(
    run_folder: Path, model: GareModel, config: Config, state: RunState, snapshot: Snapshot, metrics: dict[str, float]
) -> None:
    """Write ``snapshot`` as the checkpoint ``state.last``, completely or not at all; ``model`` gives its architecture.

    Raises InputError if it cannot be written.
    """
    target = run_folder / CHECKPOINTS / str(state.last)
    position = {"epoch": state.epoch, "batch": state.batch, "step": state.step}
    with atomic_directory(target, marker=CHECKPOINT_FILE) as folder:
        save_model(model, config, folder, snapshot.weights)
        with (folder / TRAINER_FILE).open("wb") as stream:
            torch.save({"optimiser": snapshot.optimiser, "extras": snapshot.extras, **position}, stream)
        noted = {"decided": state.decided, "extended": state.extended}
        digests = {"config_digest": state.config_digest, "dataset_digest": state.dataset_digest}
        write_json(folder / CHECKPOINT_FILE, position | digests | noted | {"metrics": metrics})


def restore(run_folder: Path, state: RunState, parts: Parts) -> None:
    """Load the run's last checkpoint into parts of the same settings."""
    folder = run_folder / CHECKPOINTS / str(state.last)
    saved = load_model(folder)
    path = folder / TRAINER_FILE
    if not path.is_file():
        raise InputError(f"{folder} has no {TRAINER_FILE}, so training cannot go on from it.")
    try:
        if zipfile.is_zipfile(path):
            check_entries(path)
        trainer: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        at_step = int(trainer["step"])
        optimiser = _fitting(trainer["optimiser"], parts.optimiser)
        parts.model.load_state_dict(saved.state_dict())
        # A run that began before texts were cleaned, or statistics read, continues as it began.
        parts.model.read_inputs_as(saved)
        parts.optimiser.load_state_dict(optimiser)
        for name, part in parts.extras.items():
            part.load_state_dict(trainer["extras"][name])
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is a pickle that holds more than tensors and plain values: refused.") from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is damaged or is another model's ({type(error).__name__}).") from error
    if at_step != state.step:
        raise InputError(f"{path} is of step {at_step}, but the run is at step {state.step}; it is another run's.")


def _fitting(saved: Mapping[str, Any], optimiser: Optimizer) -> dict[str, Any]:
    """Return a checkpoint's optimiser state with the present settings; ValueError unless it fits."""
    groups = optimiser.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
        raise ValueError("other parameter groups")
    every = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    kinds = {frozenset(entry) for entry in saved["state"].values()}
    if len(kinds) > 1 or not kinds <= ({frozenset({"mean", "square"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}):
        raise ValueError("another optimiser")
    for number, entry in saved["state"].items():
        for name, value in entry.items():
            if value.shape not in ({torch.Size()} if name == "step" else {every[number].shape}):
                raise ValueError("another shape")
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ValueError("no finite numbers")
    return {"state": saved["state"], "param_groups": groups}


def remove_stale_checkpoints(run_folder: Path, state: RunState) -> None:
    """Remove only the checkpoints that ``state`` does not name, and what a killed writer left."""
    for path in run_folder.glob(".*.tmp"):
        if path.is_file():
            path.unlink(missing_ok=True)
    folder = run_folder / CHECKPOINTS
    for path in folder.iterdir() if folder.is_dir() else ():
        ours = CHECKPOINT_NAME.fullmatch(path.name) or _LEFT_BEHIND.fullmatch(path.name)
        if path.is_dir() and ours and path.name not in state.named:
            # A half-removed folder must not look like a checkpoint.
            hidden = path if path.name.startswith(".") else path.rename(folder / f".{path.name}.old")
            shutil.rmtree(hidden, ignore_errors=True)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(inner) for inner in value)
    return value

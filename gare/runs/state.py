"""Checkpoints: everything a run needs to go on, in a folder that also loads as a model."""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from gare.common.errors import InputError
from gare.common.files import atomic_directory, write_json
from gare.config import Config
from gare.model.archive import check_entries
from gare.model.checkpoint import load_model, save_model
from gare.model.gare import GareModel
from gare.runs.run import CHECKPOINT_FILE, CHECKPOINT_NAME, CHECKPOINTS, RunState

TRAINER_FILE = "trainer.pt"

_LEFT_BEHIND = re.compile(r"\..*\.(tmp|old)")


class Stateful(Protocol):
    """What has a state of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take a state up."""


@dataclass(frozen=True)
class Parts:
    """What training changes. ``extras``: by name, whatever has a state besides model and optimiser.

    ``averaged``: gives the weights that are evaluated and saved, where they are not the model's own.
    """

    model: GareModel
    optimiser: Optimizer
    extras: Mapping[str, Stateful]
    averaged: Callable[[], dict[str, Tensor]] | None = None


@dataclass(frozen=True)
class Snapshot:
    """The state of ``Parts`` at one moment, on the CPU, shared with nothing that goes on changing."""

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
    """The folder name of the checkpoint of this moment: by the epoch at an epoch's end, else by the step."""
    return f"step-{state.step:08d}" if state.batch else f"epoch-{state.epoch:04d}"


def write_checkpoint(
    run_folder: Path, model: GareModel, config: Config, state: RunState, snapshot: Snapshot, metrics: dict[str, float]
) -> None:
    """Write ``snapshot`` as the checkpoint ``state.last``, all of it or nothing; of ``model`` only its architecture.

    Raises InputError where it cannot be written.
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
        # A run that began before texts were cleaned, or statistics read, goes on as it began.
        parts.model.read_inputs_as(saved)
        parts.optimiser.load_state_dict(optimiser)
        for name, part in parts.extras.items():
            part.load_state_dict(trainer["extras"][name])
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is a pickle that holds more than tensors and plain values: refused.") from error
    except Exception as error:  # whatever a damaged file makes of torch
        raise InputError(f"{path} is damaged or is another model's ({type(error).__name__}).") from error
    if at_step != state.step:
        raise InputError(f"{path} is of step {at_step}, but the run is at step {state.step}; it is another run's.")


def _fitting(saved: Mapping[str, Any], optimiser: Optimizer) -> dict[str, Any]:
    """The optimiser's state out of a checkpoint, with its settings as they are now; ValueError unless it fits."""
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


def sweep(run_folder: Path, state: RunState) -> None:
    """Remove the checkpoints that ``state`` does not name, and what a killed writer left; nothing else."""
    for path in run_folder.glob(".*.tmp"):
        if path.is_file():
            path.unlink(missing_ok=True)
    folder = run_folder / CHECKPOINTS
    for path in folder.iterdir() if folder.is_dir() else ():
        ours = CHECKPOINT_NAME.fullmatch(path.name) or _LEFT_BEHIND.fullmatch(path.name)
        if path.is_dir() and ours and path.name not in state.named:
            # Half removed, it must not look like a checkpoint.
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

"""Checkpoints: everything a run needs to go on, in a folder that also loads as a model."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from gare.common.errors import InputError
from gare.common.files import atomic_directory, write_json
from gare.config import Config
from gare.model.checkpoint import load_model, save_model
from gare.model.gare import GareModel
from gare.training.run import CHECKPOINTS, RunState

TRAINER_FILE = "trainer.pt"
CHECKPOINT_FILE = "checkpoint.json"


def checkpoint_name(epoch: int) -> str:
    """The folder name of the checkpoint after ``epoch`` epochs."""
    return f"epoch-{epoch:04d}"


def save_checkpoint(
    run_folder: Path, model: GareModel, optimiser: Optimizer, config: Config, state: RunState, metrics: dict[str, float]
) -> str:
    """Write the checkpoint of ``state``'s epoch atomically; returns its folder name."""
    name = checkpoint_name(state.epoch)
    with atomic_directory(run_folder / CHECKPOINTS / name, marker=CHECKPOINT_FILE) as folder:
        save_model(model, config, folder)
        torch.save(
            {"optimiser": optimiser.state_dict(), "epoch": state.epoch, "step": state.step}, folder / TRAINER_FILE
        )
        write_json(
            folder / CHECKPOINT_FILE,
            {
                "epoch": state.epoch,
                "step": state.step,
                "config_digest": state.config_digest,
                "dataset_digest": state.dataset_digest,
                "metrics": metrics,
            },
        )
    return name


def restore(run_folder: Path, name: str, model: GareModel, optimiser: Optimizer) -> None:
    """Load weights and optimiser state of a checkpoint into a model and optimiser of the same settings."""
    folder = run_folder / CHECKPOINTS / name
    model.load_state_dict(load_model(folder).state_dict())
    path = folder / TRAINER_FILE
    if not path.is_file():
        raise InputError(f"{folder} has no {TRAINER_FILE}, so training cannot go on from it.")
    try:
        trainer: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        optimiser.load_state_dict(trainer["optimiser"])
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is a pickle that holds more than tensors and plain values: refused.") from error
    except Exception as error:  # whatever a damaged file makes of torch
        raise InputError(f"{path} is damaged or is another model's ({type(error).__name__}).") from error


def keep_only(run_folder: Path, names: set[str]) -> None:
    """Remove the checkpoints that are not named, and what a killed writer left."""
    folder = run_folder / CHECKPOINTS
    for path in folder.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)

"""Register a run's best model as a version in MLflow's registry, with videos to search."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from gare.api import search
from gare.common.console import note
from gare.common.errors import InputError
from gare.common.files import file_digest, make_folder
from gare.config.tree import load_saved
from gare.data.samples import test_cautions
from gare.model.checkpoint import MODEL_PARTS, WEIGHTS, load_checkpoint_config
from gare.retrieval.folder import copy_index
from gare.runs.layout import CONFIG_FILE, moved
from gare.runs.state import resolve_checkpoint
from gare.tracking import read_handle, sync
from gare.tracking.registry import Registered, check_index
from gare.tracking.registry import register as into_mlflow
from tune.comparison.result import gather
from tune.record import SWEEP_FILE, SweepRecord


def register_run(
    folder: Path, name: str, *, index: Path | None = None, shards: str | None = None, split: str = "test"
) -> Registered:
    """Register the best checkpoint of a run's folder, with a given index or one made from a split.

    Raises InputError if the run is not in MLflow or has no checkpoint, or if the index has other weights.
    """
    sync(folder)
    handle = read_handle(folder)
    if handle is None:
        raise InputError(f"{folder} is not recorded in MLflow (runtime.tracking); a registered model belongs to a run.")
    checkpoint = resolve_checkpoint(folder)
    weights = file_digest(checkpoint / WEIGHTS)
    with ExitStack() as held:
        temporary = Path(held.enter_context(tempfile.TemporaryDirectory()))
        if index is None:
            shards = shards or moved(load_saved(folder / CONFIG_FILE), folder).runtime.shards
            if shards is None:
                raise InputError(f"The run {folder} names no shards; give --shards or --index.")
            index = temporary / "index"
            note(f"{len(search.index(checkpoint, shards, split, out=index))} videos of {split} encoded")
        split = check_index(index, weights)
        config = load_checkpoint_config(checkpoint)
        tags = {"gare.run": folder.name, "gare.split": split, "gare.weights_sha256": weights}
        tags |= {"gare.protocol_test": config.protocol.test}
        says = f"The best checkpoint of the run {folder.name}, to search the videos of its split {split}."
        says = " ".join([says, *test_cautions(config)])
        alone = _model_alone(checkpoint, temporary)
        named = copy_index(index, temporary / "named")
        return into_mlflow(handle, name, checkpoint=alone, index=named, tags=tags, description=says)


def best_run(folder: Path) -> Path:
    """Find a run's folder: the folder itself, or in a sweep's folder the best trial of the best setting."""
    if not (folder / SWEEP_FILE).is_file():
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; give the folder of a run or of a sweep.")
        return folder
    record = SweepRecord.read(folder)
    config = record.settings()
    best = gather(record, config, None).best
    if best is None:
        raise InputError(f"The sweep {folder} has no finished trial yet.")
    note(f"The sweep's best trial by {config.sweep.metric}: {best.name}")
    return Path(best.directory)


def _model_alone(checkpoint: Path, temporary: Path) -> Path:
    """Copy a checkpoint without the files that only training needs."""
    alone = make_folder(temporary / "checkpoint")
    for name in MODEL_PARTS:
        source = checkpoint / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, alone / name)
    return alone

"""``gare register``: a trained model into MLflow's registry."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import gare_command
from gare.common.console import note, say
from gare.common.errors import InputError

if TYPE_CHECKING:
    from gare.tracking import RunHandle
    from gare.tracking.registry import Registered


@gare_command("register", short_help="Put a run's best model into MLflow's registry.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the registered model; it gets its next version.")
@click.option("--index", type=click.Path(path_type=Path), help="Videos to search (gare index); else they are encoded.")
@click.option("--shards", help="Without --index: folder or address of gare prepare; the run's own when left out.")
@click.option("--split", default="test", show_default=True, help="Without --index: split whose videos are searched.")
def register(run: Path, name: str, index: Path | None, shards: str | None, split: str) -> dict[str, Any]:
    """Put the best checkpoint of RUN, a run's folder or a sweep's, into MLflow's registry with videos to search.

    The model answers sentences: mlflow.pyfunc.load_model("models:/NAME/1").predict({"query": "a red ball"}) gives
    a row per video, best first: query, rank, video_id, score; a column top says how many.

    \b
    Examples:
      gare register runs/demo --name videos
      gare register runs/weights --name videos --index index
      mlflow models serve -m models:/videos/1 --env-manager local
    """
    folder = best_run(run)
    done = register_run(folder, name, index=index, shards=shards, split=split)
    say(f"{done.address} is registered; mlflow.pyfunc.load_model takes this address.")
    return asdict(done) | {"run": str(folder)}


def register_run(
    folder: Path, name: str, *, index: Path | None = None, shards: str | None = None, split: str = "test"
) -> Registered:
    """Register the best checkpoint of a run's folder, with an index or with one made of a split.

    Raises InputError when the run is not in MLflow or has no checkpoint, or the index is of other weights.
    """
    from gare.common.files import file_digest
    from gare.data.samples import test_cautions
    from gare.model.checkpoint import WEIGHTS, load_checkpoint_config
    from gare.runs.state import resolve_checkpoint
    from gare.tracking.registry import check_index
    from gare.tracking.registry import register as into_mlflow

    handle = _handle(folder)
    checkpoint = resolve_checkpoint(folder)
    weights = file_digest(checkpoint / WEIGHTS)
    with ExitStack() as held:
        temporary = Path(held.enter_context(tempfile.TemporaryDirectory()))
        if index is None:
            index = temporary / "index"
            _make_index(index, folder, checkpoint, shards, split)
        split = check_index(index, weights)
        config = load_checkpoint_config(checkpoint)
        tags = {"gare.run": folder.name, "gare.split": split, "gare.weights_sha256": weights}
        tags |= {"gare.protocol_test": config.protocol.test}
        says = f"The best checkpoint of the run {folder.name}, to search the videos of its split {split}."
        says = " ".join([says, *test_cautions(config)])
        return into_mlflow(
            handle, name, checkpoint=_model_alone(checkpoint, temporary), index=index, tags=tags, description=says
        )


def best_run(folder: Path) -> Path:
    """A run's folder from itself, or from a sweep's folder that of the best trial of its best setting."""
    from tune.comparison.result import gather
    from tune.record import SWEEP_FILE, SweepRecord

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


def _handle(folder: Path) -> RunHandle:
    from gare.tracking import read_handle, sync

    sync(folder)
    handle = read_handle(folder)
    if handle is None:
        raise InputError(f"{folder} is not recorded in MLflow (runtime.tracking); a registered model belongs to a run.")
    return handle


def _model_alone(checkpoint: Path, temporary: Path) -> Path:
    """A copy of a checkpoint without what only training needs."""
    from gare.common.files import make_folder
    from gare.model.checkpoint import MODEL_PARTS

    alone = make_folder(temporary / "checkpoint")
    for name in MODEL_PARTS:
        source = checkpoint / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, alone / name)
    return alone


def _make_index(out: Path, folder: Path, checkpoint: Path, shards: str | None, split: str) -> None:
    from gare.cli.checkpoint import open_checkpoint
    from gare.data.batches import check_fit
    from gare.runs.layout import CONFIG_FILE, moved
    from gare.search.index import write_index

    if shards is None:
        from gare.config.tree import load_saved

        shards = moved(load_saved(folder / CONFIG_FILE), folder).runtime.shards
    if shards is None:
        raise InputError(f"The run {folder} names no shards; give --shards or --index.")
    with open_checkpoint(str(checkpoint), shards, ()) as (_, model, dataset, config):
        check_fit(model, dataset, config)
        videos = write_index(out, checkpoint, model, dataset.split(split), config, dataset.digest)
    note(f"{videos} videos of {split} encoded")

"""A training run with its MLflow run around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gare.common.console import warn
from gare.common.errors import InputError, RunError
from gare.common.files import only_one, write_json
from gare.common.records import checked, load_json
from gare.common.redact import first_line
from gare.config import Config
from gare.data.shards import ShardSet
from gare.model.checkpoint import MODEL_PARTS
from gare.tracking import RunHandle, Tracker, resolve_uri
from gare.training.run import (
    CHECKPOINTS,
    DIAGNOSTICS,
    HANDLE_FILE,
    HISTORY_FILE,
    RunSummary,
    absolute,
    open_run,
    read_state,
    resolve_checkpoint,
    run_directory,
)
from gare.training.storage import RunStorage

MB = 1e6
REPORT_FILE, METRICS_FILE = "report.html", "metrics.json"


def tracked(config: Config, fit: Callable[[RunHandle | None], RunSummary]) -> RunSummary:
    """Call ``fit`` with the handle of a new MLflow run, or of the one an interrupted run had; None without tracking.

    Raises RunError when another process is training the same run, and when a new run's tracker cannot be used; a run
    that was tracked before goes on without it.
    """
    from gare.training.inputs import open_shards

    config = absolute(config)
    shards = open_shards(config, frames=False)
    storage = RunStorage(config)
    with only_one(run_directory(config)), storage.held():
        storage.pull()
        return _track(config, fit, shards) if config.runtime.tracking else fit(None)


def _track(config: Config, fit: Callable[[RunHandle | None], RunSummary], shards: ShardSet) -> RunSummary:
    open_run(config, shards.digest)
    folder = run_directory(config)
    tracker, handle = _handle(folder, config)
    tracker.dataset(handle.run_id, dataset_digests(shards), name=Path(shards.folder).name, source=str(shards.folder))
    try:
        result = fit(handle)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        record_files(tracker, handle.run_id, folder, config)
        tracker.finish(handle.run_id, "KILLED" if interrupted else "FAILED")
        raise
    record_files(tracker, handle.run_id, folder, config)
    tracker.tag(handle.run_id, {"gare.selected_by": result.selected_by})
    tracker.metrics(handle.run_id, {f"best/{name}": value for name, value in result.best_metrics.items()}, result.steps)
    tracker.finish(handle.run_id)
    tracker.replay()
    return result


def dataset_digests(shards: ShardSet) -> dict[str, str]:
    """What a tracker is told of the data, for ``Tracker.dataset``."""
    return {"dataset_digest": shards.digest, "recipe_digest": str(shards.manifest["recipe_digest"])}


def record_files(tracker: Tracker, run_id: str, folder: Path, config: Config) -> None:
    """Give MLflow the files of a run's folder, also those from before a resume.

    They are its history, its pictures and its best checkpoint: a copy up to ``runtime.checkpoint_artifact_mb``, else
    only where it is.
    """
    if (folder / HISTORY_FILE).is_file():
        tracker.artifact(run_id, folder / HISTORY_FILE)
    if any((folder / DIAGNOSTICS).glob("*.png")):
        tracker.artifact(run_id, folder / DIAGNOSTICS, DIAGNOSTICS)
    with suppress(InputError):  # no checkpoint yet
        best = resolve_checkpoint(folder)
        if best == folder:
            return
        parts = [best / name for name in MODEL_PARTS]
        files = [file for part in parts for file in (part, *part.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        tracker.tag(run_id, {"gare.best_checkpoint": str(best), "gare.best_checkpoint_mb": f"{size / MB:.1f}"})
        if size <= MB * config.runtime.checkpoint_artifact_mb:
            for part in parts:
                tracker.artifact(run_id, part, f"best_checkpoint/{part.name}" if part.is_dir() else "best_checkpoint")


def record_evaluation(checkpoint: Path, name: str, values: Mapping[str, Any]) -> None:
    """Give the MLflow run of a checkpoint in a run's folder the outcome of an evaluation; nothing where it has none.

    ``name``: what was evaluated, such as ``test``; the figures of the run's best checkpoint are its metrics
    ``test/...``, those of others are files only. ``values``: of metrics.json, and ``out``, the folder of the files.
    """
    folder = checkpoint.parent.parent
    handle = read_handle(folder) if checkpoint.parent.name == CHECKPOINTS else None
    if handle is None:
        return
    try:
        tracker = Tracker(handle.uri, handle.experiment, spool=folder, under_way=True)
    except RunError as error:
        warn(f"The evaluation is not recorded in MLflow: {error}")
        return
    state = read_state(folder)
    best = state is not None and state.best == checkpoint.name
    if state is not None and best:
        figures = {
            f"{name}/{key}": value
            for key, value in values.items()
            if isinstance(value, int | float) and "/" in key and not key.endswith(("/gallery", "/queries"))
        }
        tracker.metrics(handle.run_id, figures, state.step)
    place = f"evaluation/{name}" if best else f"evaluation/{name}-{checkpoint.name}"
    for file in (REPORT_FILE, METRICS_FILE):
        if (Path(values["out"]) / file).is_file():
            tracker.artifact(handle.run_id, Path(values["out"]) / file, place)


def read_handle(folder: Path) -> RunHandle | None:
    """The MLflow run of a run's folder; None where none is recorded."""
    path = folder / HANDLE_FILE
    try:
        return checked(RunHandle, load_json(path.read_bytes())) if path.is_file() else None
    except (OSError, ValueError) as error:
        warn(f"{path} cannot be read ({first_line(error)}), so this run is recorded as another one in MLflow.")
        return None


def write_handle(folder: Path, handle: RunHandle) -> None:
    """Record which MLflow run belongs to a run's folder."""
    write_json(folder / HANDLE_FILE, asdict(handle))


def _handle(folder: Path, config: Config) -> tuple[Tracker, RunHandle]:
    """The run's own MLflow run: the recorded one when it is resumed, else a new one, recorded."""
    known = read_handle(folder)
    if known is not None and known.uri != resolve_uri(config.runtime):
        known = None
    tracker = Tracker.open(config.runtime, spool=folder, under_way=known is not None)
    if known is not None and known.experiment == tracker.experiment:
        # A store that no longer has the run costs the old record and not the training.
        with suppress(RunError):
            tracker.resume(known.run_id)
            return tracker, known
    handle = tracker.handle(tracker.start(config.run_name(), config=config, tags={"gare.kind": "run"}))
    write_handle(folder, handle)
    return tracker, handle

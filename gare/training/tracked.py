"""A training run with its MLflow run around it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from gare.common.errors import RunError
from gare.common.files import only_one, write_json
from gare.config import Config
from gare.data.shards import ShardSet
from gare.tracking import RunHandle, Tracker, log_report
from gare.training.history import last_epoch, read_history
from gare.training.run import (
    DIAGNOSTICS,
    HANDLE_FILE,
    HISTORY_FILE,
    RunSummary,
    absolute,
    open_run,
    read_state,
    run_directory,
)
from gare.training.storage import RunStorage


def tracked(config: Config, fit: Callable[[RunHandle | None], RunSummary]) -> RunSummary:
    """Call ``fit`` with the handle of a new MLflow run, or of the one an interrupted run had; None without tracking.

    Raises RunError when another process is training the same run.
    """
    from gare.training.inputs import open_shards

    config = absolute(config)
    shards = open_shards(config)
    storage = RunStorage(config)
    with only_one(run_directory(config)), storage.held():
        storage.pull()
        return _track(config, fit, shards) if config.runtime.tracking else fit(None)


def _track(config: Config, fit: Callable[[RunHandle | None], RunSummary], shards: ShardSet) -> RunSummary:
    open_run(config, shards.digest)
    folder = run_directory(config)
    tracker = Tracker.open(config.runtime)
    handle = _handle(folder, tracker, config)
    tracker.dataset(handle.run_id, {"dataset_digest": shards.digest, "recipe_digest": shards.manifest["recipe_digest"]})
    try:
        result = fit(handle)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        _artifacts(tracker, handle, folder)
        tracker.finish(handle.run_id, "KILLED" if interrupted else "FAILED")
        raise
    if result.already_finished:  # its last report may have been lost with the process that made it
        log_report(handle, {"history": last_epoch(read_history(folder / HISTORY_FILE))})
    _artifacts(tracker, handle, folder)
    tracker.tag(handle.run_id, {"gare.selected_by": result.selected_by})
    tracker.metrics(handle.run_id, {f"best/{name}": value for name, value in result.best_metrics.items()}, result.steps)
    tracker.finish(handle.run_id)
    return result


def _artifacts(tracker: Tracker, handle: RunHandle, folder: Path) -> None:
    """Copy the run's history and pictures, also those from before a resume."""
    if (folder / HISTORY_FILE).is_file():
        tracker.artifact(handle.run_id, folder / HISTORY_FILE)
    for figure in sorted((folder / DIAGNOSTICS).glob("*.png")):
        tracker.artifact(handle.run_id, figure, DIAGNOSTICS)


def _handle(folder: Path, tracker: Tracker, config: Config) -> RunHandle:
    """The run's own MLflow run: the recorded one when it is resumed, else a new one, recorded."""
    path = folder / HANDLE_FILE
    state = read_state(folder)
    if path.is_file() and state is not None:
        # A handle that is damaged, or a store that no longer has the run, costs the old record and not the training.
        with suppress(ValueError, TypeError, RunError):
            known = RunHandle(**json.loads(path.read_text(encoding="utf-8")))
            if known.uri == tracker.uri:
                tracker.resume(known.run_id)
                return known
    run_id = tracker.start(config.run_name(), config=config)
    handle = RunHandle(tracker.uri, config.runtime.experiment, run_id)
    write_json(path, asdict(handle))
    return handle

"""Train a run and record it for trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.locks import exclusive_lock
from gare.config import Config
from gare.data.shards import ShardSet
from gare.model.checkpoint import MODEL_PARTS
from gare.runs.layout import CHECKPOINTS, DIAGNOSTICS, HISTORY_FILE
from gare.runs.run import Run
from gare.runs.state import RunSummary, read_state, resolve_checkpoint
from gare.tracking import Status, begin, note_down, sync

MB = 1e6
REPORT_FILE, METRICS_FILE = "report.html", "metrics.json"


def tracked(run: Run, fit: Callable[[Run], RunSummary]) -> RunSummary:
    """Train the run by ``fit``, and record it for its tracker, as a new run or as that of an interrupted one.

    Raises RunError if another process is training the same run, or if a new run's tracker cannot be used; a run that
    was tracked before continues without it.
    """
    _ = run.shards  # raises if there are none, before a folder is made
    with exclusive_lock(run.folder), run.storage.held():
        return _track(run, fit) if run.config.runtime.tracking else fit(run)


def _track(run: Run, fit: Callable[[Run], RunSummary]) -> RunSummary:
    folder, config, shards = run.folder, run.config, run.shards
    state = run.take_up()
    dataset = dataset_digests(shards) | {"name": Path(shards.folder).name, "source": str(shards.folder)}
    ended: Status | None = "FINISHED" if state.finished else None
    begin(folder, config, config.run_name(), tags={"gare.kind": "run"}, dataset=dataset, ended=ended)
    try:
        result = fit(run)
    except BaseException as error:
        record_files(folder, config)
        note_down(folder, status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        sync(folder)
        raise
    record_files(folder, config)
    best = {f"best/{name}": value for name, value in result.best_metrics.items()}
    tags = {"gare.selected_by": result.selected_by}
    note_down(folder, tags=tags, metrics=best, step=result.steps, status="FINISHED")
    sync(folder)
    return result


def dataset_digests(shards: ShardSet) -> dict[str, str]:
    """Return the digests of the data, for ``gare.tracking.begin``."""
    return {"dataset_digest": shards.digest, "recipe_digest": str(shards.manifest["recipe_digest"])}


def record_files(folder: Path, config: Config) -> None:
    """Record which files of a run's folder the tracker gets, including those from before a resume.

    They are its history, its pictures and its best checkpoint: a copy up to ``runtime.checkpoint_artifact_mb``, else
    only its place.
    """
    artifacts, tags = {}, {}
    if (folder / HISTORY_FILE).is_file():
        artifacts[HISTORY_FILE] = folder / HISTORY_FILE
    if any((folder / DIAGNOSTICS).glob("*.png")):
        artifacts[DIAGNOSTICS] = folder / DIAGNOSTICS
    with suppress(InputError):  # no checkpoint yet
        best = resolve_checkpoint(folder)
        parts = [best / name for name in MODEL_PARTS] if best != folder else []
        files = [file for part in parts for file in (part, *part.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        if parts:
            tags = {"gare.best_checkpoint": str(best), "gare.best_checkpoint_mb": f"{size / MB:.1f}"}
        if size <= MB * config.runtime.checkpoint_artifact_mb:
            artifacts |= {f"best_checkpoint/{part.name}": part for part in parts}
    note_down(folder, tags=tags, artifacts=artifacts)


def record_evaluation(checkpoint: Path, name: str, values: Mapping[str, Any]) -> None:
    """Record the result of evaluating a checkpoint in a run's folder; does nothing if the run has no record.

    ``name``: what was evaluated, such as ``test``; the figures of the run's best checkpoint are its metrics
    ``test/...``, those of others are files only. ``values``: of metrics.json, and ``out``, the folder of the files.
    """
    if checkpoint.parent.name != CHECKPOINTS:
        return
    folder = checkpoint.parent.parent
    state = read_state(folder)
    best = state is not None and state.best == checkpoint.name
    figures = {
        f"{name}/{key}": value
        for key, value in values.items()
        if isinstance(value, int | float) and "/" in key and not key.endswith(("/gallery", "/queries"))
    }
    place = f"evaluation/{name}" if best else f"evaluation/{name}-{checkpoint.name}"
    files = [Path(values["out"]) / file for file in (REPORT_FILE, METRICS_FILE)]
    note_down(
        folder,
        metrics=figures if best else {},
        step=state.step if state is not None else 0,
        artifacts={f"{place}/{file.name}": file for file in files if file.is_file()},
    )
    sync(folder)

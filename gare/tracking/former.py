"""Send operations that an earlier version left waiting for MLflow in a run's folder: JSON lines, in order."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gare.tracking.record import OFFLINE, Record
from gare.tracking.tracker import Changes, Refused, Tracker

PARENT = "mlflow.parentRunId"


def replay(folder: Path, record: Record, tracker: Tracker, refused: Callable[[Refused], None]) -> None:
    """Send what waits for this tracker, and remove the file.

    If the tracker is Unreachable, the file stays complete; sending anything twice changes nothing.
    """
    named = hashlib.sha256(record.address(folder).encode()).hexdigest()[:8]
    files = list(folder.glob("mlflow-spool-*.jsonl"))
    moved = len(files) == 1 and record.address(folder).startswith("sqlite:")  # a moved project's store is the same one
    for path in files if moved else [file for file in files if named in file.name]:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                _apply(tracker, json.loads(line), record.experiment)
            except Refused as refusal:
                refused(refusal)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # half a line from a killed process
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)


def _apply(tracker: Tracker, values: Mapping[str, Any], experiment: str) -> None:
    kind = values["op"]
    if kind == "start":
        tags = dict(values["tags"])
        parent = tags.pop(PARENT, None)
        begun = Record(uri="", experiment=experiment, name=values["name"], tags=tags, begun_ms=values["begun_ms"])
        begun.token = values["token"]
        tracker.find(begun, None if parent is None else _run(tracker, parent, experiment))
        return
    if kind == "history":
        return  # that folder's files contain it
    run_id = _run(tracker, values["run"], experiment)
    if kind == "artifact":
        _copy(tracker, run_id, Path(values["path"]), values["folder"])
    elif kind == "text":
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / Path(values["file"]).name
            path.write_text(values["text"], encoding="utf-8")
            tracker.copy(run_id, path, values["file"])
    else:
        tracker.log(run_id, _changes(values))


def _changes(values: Mapping[str, Any]) -> Changes:
    dataset = dict(values.get("datasets", [{}])[0])
    if dataset:
        dataset = {"name": dataset["name"], "digest": dataset["digest"], "source": json.loads(dataset["source"])["uri"]}
    return Changes(
        tags=values.get("tags", {}),
        params=values.get("params", {}),
        points=tuple((name, value, at, step) for name, value, at, step in values.get("points", [])),
        dataset=dataset,
        status=values.get("status"),
        ended_ms=values.get("ended_ms"),
    )


def _copy(tracker: Tracker, run_id: str, path: Path, folder: str | None) -> None:
    if not path.exists():
        raise Refused(f"{path} is gone")
    tracker.copy(run_id, path, folder or "" if path.is_dir() else "/".join(filter(None, [folder, path.name])))


def _run(tracker: Tracker, run_id: str, experiment: str) -> str:
    """Return the tracker's id for a run, which may have begun while the tracker was unreachable."""
    if not run_id.startswith(OFFLINE):
        return run_id
    return tracker.find(Record(uri="", experiment=experiment, token=run_id.removeprefix(OFFLINE)), None).run_id

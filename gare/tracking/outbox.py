"""What is recorded about runs, as plain values: sent at once, or kept in a file until the store answers.

Every operation can be applied twice with the same outcome, so one whose answer was lost is simply sent again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from gare.common.console import note, warn
from gare.common.errors import InputError
from gare.common.files import make_folder, write_text, writing
from gare.common.records import load_json
from gare.common.redact import redact
from gare.tracking.store import CREDENTIALS, PARAMETERS_PER_CALL, Denied, Refused, Store, Unreachable, first_line, store

SPOOL = "mlflow-spool"
Operation = dict[str, Any]
"""``op``: what to do, ``run``: for which run, and what it needs."""

_warned: set[str] = set()


class Outbox:
    """The way to one experiment; make them with ``outbox``.

    ``folder`` holds the spool, a file per store; None keeps nothing: what cannot be sent is lost, with a warning.
    """

    def __init__(self, uri: str, experiment: str, folder: Path | None) -> None:
        self.store: Store = store(uri, experiment)
        self._path = spool_file(folder, uri) if folder is not None else None
        self._lock = threading.RLock()

    def send(self, operation: Operation) -> None:
        """Apply an operation, after those that wait; or let it wait too. Never raises for the store's sake."""
        with self._lock:
            if self._path is None:
                self._now_or_never(operation)
            elif not self.flush():
                self._keep(operation)
            else:
                try:
                    apply(self.store, operation)
                except Refused as refusal:
                    _say_refused(self.store, operation, refusal)
                except Unreachable as silence:
                    self._keep(operation)
                    self.away(silence)

    def keep(self, operation: Operation) -> None:
        """Let an operation wait, without trying."""
        with self._lock:
            if self._path is not None:
                self._keep(operation)

    def away(self, silence: Unreachable) -> None:
        """Say that the store does not answer, once."""
        uri = self.store.uri
        if uri not in _warned and self._path is not None:
            _warned.add(uri)
            says = f"refuses access, {CREDENTIALS}" if isinstance(silence, Denied) else "cannot be used now"
            warn(
                f"MLflow at {redact(uri)} {says} ({silence}). The work goes on; what is to be recorded waits in "
                f"{self._path.parent} and is sent when MLflow accepts it, at the latest by the folder's next command."
            )

    def flush(self, *, again: bool = False) -> bool:
        """Apply what waits, in order; returns whether nothing waits any more.

        A store that was away a moment ago is not asked, unless ``again``.
        """
        path = self._path
        if path is None or not path.is_file():
            return again or path is None or not self.store.waiting
        if self.store.waiting and not again:
            return False
        with self._lock, _held(path) as mine:
            return mine and self._replay(path)

    def _replay(self, path: Path) -> bool:
        waiting = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
        done = 0
        try:
            for line in waiting:
                self._replay_one(line)
                done += 1
        except Unreachable as silence:
            self.away(silence)
        finally:  # also when it is interrupted; what was sent and is still in the file may be sent again
            if done < len(waiting):
                if done:
                    write_text(path, "".join(waiting[done:]))
            else:
                path.unlink(missing_ok=True)
        if done == len(waiting) and done:
            _warned.discard(self.store.uri)
            note(f"MLflow at {redact(self.store.uri)} answers; all that waited for it ({done} records) is there.")
        return done == len(waiting)

    def _replay_one(self, line: str) -> None:
        try:
            operation = load_json(line, nan=True)
        except ValueError:  # half a line of a process that was killed
            return
        try:
            apply(self.store, operation)
        except Refused as refusal:
            _say_refused(self.store, operation, refusal)

    def _now_or_never(self, operation: Operation) -> None:
        if self.store.waiting:
            _say_refused(self.store, operation, Unreachable("it was away a moment ago"))
            return
        try:
            apply(self.store, operation)
        except (Refused, Unreachable) as error:
            _say_refused(self.store, operation, error)

    def _keep(self, operation: Operation) -> None:
        assert self._path is not None  # noqa: S101
        try:
            make_folder(self._path.parent)
            with writing(self._path), self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(operation) + "\n")
        except InputError as error:
            _say_refused(self.store, operation, error)


@lru_cache
def outbox(uri: str, experiment: str, folder: Path | None) -> Outbox:
    """This process's way to an experiment with a spool in ``folder``."""
    return Outbox(uri, experiment, folder)


def spool_file(folder: Path, uri: str) -> Path:
    """Where a folder keeps what waits for a store."""
    return folder / f"{SPOOL}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}.jsonl"


def apply(target: Store, operation: Mapping[str, Any]) -> None:
    """Do what an operation says. Raises Refused or Unreachable."""
    _APPLY[operation["op"]](target, operation)


def _start(target: Store, operation: Mapping[str, Any]) -> None:
    target.create(operation["name"], operation["tags"], operation["begun_ms"], operation["token"])


def _tags(target: Store, operation: Mapping[str, Any]) -> None:
    from mlflow.entities import RunTag

    run_id = target.run(operation["run"])
    with target.asking() as mlflow:
        mlflow.log_batch(run_id, tags=[RunTag(key, value) for key, value in operation["tags"].items()])


def _params(target: Store, operation: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    run_id = target.run(operation["run"])
    entries = [Param(key, value) for key, value in operation["params"].items()]
    for start in range(0, len(entries), PARAMETERS_PER_CALL):
        with target.asking() as mlflow:
            mlflow.log_batch(run_id, params=entries[start : start + PARAMETERS_PER_CALL])


def _metrics(target: Store, operation: Mapping[str, Any]) -> None:
    target.log(operation["run"], [tuple(point) for point in operation["points"]])


def _datasets(target: Store, operation: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    run_id = target.run(operation["run"])
    context = [InputTag("mlflow.data.context", "training")]
    inputs = [DatasetInput(Dataset(**dataset), context) for dataset in operation["datasets"]]
    with target.asking() as mlflow:
        mlflow.log_inputs(run_id, datasets=inputs)


def _status(target: Store, operation: Mapping[str, Any]) -> None:
    run_id = target.run(operation["run"])
    with target.asking() as mlflow:
        if operation["status"] == "RUNNING":
            mlflow.update_run(run_id, status="RUNNING")
        else:
            mlflow.set_terminated(run_id, operation["status"], operation["ended_ms"])


def _text(target: Store, operation: Mapping[str, Any]) -> None:
    run_id = target.run(operation["run"])
    _artifact_of(target, run_id, lambda mlflow: mlflow.log_text(run_id, operation["text"], operation["file"]))


def _artifact(target: Store, operation: Mapping[str, Any]) -> None:
    run_id, path = target.run(operation["run"]), Path(operation["path"])
    if not path.exists():
        raise Refused(f"{path} is gone")
    _artifact_of(
        target,
        run_id,
        lambda mlflow: (mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact)(
            run_id, str(path), operation["folder"]
        ),
    )


def _artifact_of(target: Store, run_id: str, upload: Any) -> None:
    """Artifacts have a place of their own: where that is unusable while the store answers, waiting would not help."""
    from mlflow.exceptions import MlflowException

    with target.asking() as mlflow:
        mlflow.get_run(run_id)
        try:
            upload(mlflow)
        except (MlflowException, OSError):
            mlflow.get_run(run_id)
            try:
                upload(mlflow)
            except (MlflowException, OSError) as error:
                mlflow.get_run(run_id)
                raise Refused(f"the artifact store: {first_line(error)}") from error


def _history(target: Store, operation: Mapping[str, Any]) -> None:
    from gare.tracking.feed import Rows

    Rows(target, operation["run"], Path(operation["path"])).push()


_APPLY = {
    "start": _start,
    "tags": _tags,
    "params": _params,
    "metrics": _metrics,
    "datasets": _datasets,
    "status": _status,
    "text": _text,
    "artifact": _artifact,
    "history": _history,
}


def _say_refused(target: Store, operation: Mapping[str, Any], error: Exception) -> None:
    if target.uri in _warned:
        return
    _warned.add(target.uri)
    warn(
        f"MLflow at {redact(target.uri)} did not record something ({operation['op']}): {redact(str(error))} The run "
        "goes on, and its history.jsonl has everything; what else is not recorded is not said again."
    )


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether no other process sends what is in a spool, while the block runs."""
    with path.with_suffix(".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a file system without locks
        yield True

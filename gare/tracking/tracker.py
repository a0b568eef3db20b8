"""Runs in MLflow: started, described, ended."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from gare.common.errors import RunError
from gare.common.redact import redact
from gare.config import Config, RuntimeConfig
from gare.config.tree import flatten, to_yaml
from gare.tracking.environment import environment, resolve_uri
from gare.tracking.feed import WARNING_TAG
from gare.tracking.names import RunHandle, numbers, parameter, points, tag_value
from gare.tracking.outbox import SPOOL, apply, outbox, spool_file
from gare.tracking.store import CREDENTIALS, OFFLINE, Denied, Refused, Unreachable, first_line

Status = Literal["FINISHED", "FAILED", "KILLED"]

PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Tracker:
    """One experiment of one MLflow store.

    Opening it raises RunError when the store cannot be used, unless ``spool`` and ``under_way`` say that work goes on.
    With a ``spool``, a store that goes away later costs nothing: what is to be recorded waits in that folder, in
    order, and is sent when the store answers, at the latest by ``replay`` in the next command on the folder; ``start``
    then returns an id of its own, good for every method here and for handles, also later and in other processes.
    Without one, what cannot be recorded is lost, with a warning; then ``start`` and ``resume`` raise RunError.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifact_root: Path | None = None,
        *,
        spool: Path | None = None,
        under_way: bool = False,
    ) -> None:
        """Create the store's schema and the experiment where missing.

        ``artifact_root``: absolute folder for the artifacts of a new experiment; None leaves it to a server.
        ``spool``: folder of the run or the sweep, which must exist. ``under_way``: it has been recorded before.
        """
        self.uri, self.experiment = uri, experiment
        self._spool = spool
        self._outbox = outbox(uri, experiment, spool)
        with _must("use", uri):
            try:
                self._outbox.store.open(artifact_root)
            except Unreachable as silence:
                if spool is None or not under_way:
                    raise
                self._outbox.away(silence)
        if spool is not None and under_way:
            self.replay()

    @classmethod
    def open(cls, runtime: RuntimeConfig, *, spool: Path | None = None, under_way: bool = False) -> Tracker:
        """Open the store and the experiment of the settings."""
        uri = resolve_uri(runtime)
        root = Path(runtime.output).resolve() / "mlflow-artifacts" if uri.startswith("sqlite:") else None
        return cls(uri, runtime.experiment, root, spool=spool, under_way=under_way)

    def handle(self, run_id: str) -> RunHandle:
        """Return what another process needs to log to this run."""
        return RunHandle(self.uri, self.experiment, run_id)

    def start(
        self,
        name: str,
        *,
        config: Config | None = None,
        tags: Mapping[str, str] = _NO_TAGS,
        parent_run_id: str | None = None,
        key: str | None = None,
    ) -> str:
        """Start a run and return its id.

        Its settings become parameters by dotted key and the artifact ``config.yaml``; tags tell the code, the
        libraries and the machine. ``key``, unique in the experiment: a second start with the same one returns the
        run that the first one made, so that a process killed before it wrote the id down leaves no second run.
        """
        every = environment()
        if config is not None:
            every |= {"gare.config_digest": config.digest(), "gare.protocol_test": config.protocol.test}
        every = every | dict(tags) | ({PARENT_TAG: parent_run_id} if parent_run_id else {})
        every = {tag: tag_value(value) for tag, value in every.items()}
        token = hashlib.sha256(key.encode()).hexdigest()[:32] if key is not None else None
        run_id = self._create(name, every, token)
        if config is not None:
            self._send("params", run_id, params={key: parameter(value) for key, value in flatten(config).items()})
            self._send("text", run_id, text=redact(to_yaml(config)), file="config.yaml")
        return run_id

    def resume(self, run_id: str) -> None:
        """Take up a run that ended or was interrupted; RunError when the store does not have it."""
        running = {"op": "status", "run": run_id, "status": "RUNNING"}
        with _must(f"find the run {run_id} in", self.uri):
            if not self._outbox.flush():
                self._outbox.send(running)
                return
            try:
                apply(self._outbox.store, running)
            except Unreachable:
                if self._spool is None:
                    raise
                self._outbox.send(running)

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Log one step's metrics in one call, names by ``metric_name``; infinities become NaN, as MLflow keeps none."""
        self.history(run_id, [(step, values)])

    def history(self, run_id: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log the metrics of many steps in few calls; a run that trains is followed by ``feeding`` instead."""
        now = _now()
        self._send("metrics", run_id, points=[point for step, values in rows for point in points(values, now, step)])

    def dataset(self, run_id: str, digests: Mapping[str, str], *, name: str = "", source: str = "local") -> None:
        """Record which data the run trains on: each digest as a tag, and ``dataset_digest`` as an MLflow dataset.

        ``name``: of the dataset, its digest when empty; ``source``: the shards' folder or address.
        """
        self.tag(run_id, digests)
        digest = digests.get("dataset_digest")
        if digest is not None:
            # MLflow keeps 36 characters of a dataset's digest; the tag has all of it.
            shown = {"name": name or "shards", "digest": digest[:36], "source_type": "local"}
            self._send("datasets", run_id, datasets=[shown | {"source": json.dumps({"uri": redact(source)})}])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        if tags:
            self._send("tags", run_id, tags={key: tag_value(value) for key, value in tags.items()})

    def describe(self, run_id: str, markdown: str) -> None:
        """Set what MLflow's page shows as the run's description."""
        self.tag(run_id, {NOTE_TAG: markdown})

    def artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file, or what a folder holds, into the run's artifacts, below ``folder`` there."""
        self._send("artifact", run_id, path=str(path.resolve()), folder=folder)

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """End the run."""
        self._send("status", run_id, status=status, ended_ms=_now())

    def replay(self) -> bool:
        """Send what waits in the spool and in those of folders below it; returns whether nothing waits any more."""
        return self._spool is None or replay(self._spool, self.uri, self.experiment)

    def _send(self, what: str, run_id: str, **values: Any) -> None:
        self._outbox.send({"op": what, "run": run_id, **values})

    def _create(self, name: str, tags: Mapping[str, str], token: str | None) -> str:
        begun = _now()
        if self._spool is None:
            with _must("start a run in", self.uri):
                return self._outbox.store.create(name, tags, begun, token)
        # An id of our own that the run is found by, in case the answer to its creation is lost.
        token = token or uuid.uuid4().hex
        try:
            if self._outbox.flush():
                return self._outbox.store.create(name, tags, begun, token)
        except Refused as refusal:
            raise RunError(f"MLflow at {redact(self.uri)} starts no run: {refusal}") from None
        except Unreachable as silence:
            self._outbox.away(silence)
        self._outbox.keep({"op": "start", "name": name, "tags": dict(tags), "begun_ms": begun, "token": token})
        return OFFLINE + token


def replay(folder: Path, uri: str, experiment: str) -> bool:
    """Send what waits for a store in a folder and those below it; returns whether nothing waits any more.

    It is asked even if it was away a moment ago, and not again when it still is.
    """
    name = spool_file(folder, uri).name
    for spool in sorted(folder.rglob(name), key=lambda path: len(path.parts)):
        if not outbox(uri, experiment, spool.parent).flush(again=True):
            return False
    return True


def waiting(folder: Path) -> bool:
    """Whether something in a folder still waits for a tracker."""
    return any(True for _ in folder.rglob(f"{SPOOL}-*.jsonl"))


def log_report(handle: RunHandle, report: Mapping[str, Any]) -> None:
    """Log a training report: the rows of its ``history`` where it has some, else its own numbers at its step.

    A ``warning`` in a row becomes the tag ``gare.warning``.
    Never raises for a store that cannot be reached.
    """
    rows = report.get("history") or [report]
    out, now = outbox(handle.uri, handle.experiment, None), _now()
    logged = [point for row in rows for point in points(numbers(row), now, int(row.get("step", 0)))]
    out.send({"op": "metrics", "run": handle.run_id, "points": logged})
    for row in rows:
        if "warning" in row:
            out.send({"op": "tags", "run": handle.run_id, "tags": {WARNING_TAG: tag_value(str(row["warning"]))}})


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def _must(action: str, uri: str) -> Iterator[None]:
    try:
        yield
    except (Refused, Unreachable) as error:
        fix = "Set runtime.tracking_uri to a server or a sqlite:/// file, or runtime.tracking to false."
        if isinstance(error, Denied):
            fix = f"It refuses access: {CREDENTIALS}."
        why = first_line(error).rstrip(".")
        raise RunError(f"Cannot {action} the MLflow store {redact(uri)}: {why}. {fix}") from None

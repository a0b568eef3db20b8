"""MLflow as a tracker. Only this module and the registry know MLflow.

Everything goes through ``MlflowClient`` with an explicit address; nothing touches MLflow's global state.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from gare.common.addresses import sqlite_path
from gare.common.locks import lock_within
from gare.common.redact import first_line, redact
from gare.tracking.mlflow_place import artifact_place
from gare.tracking.record import Record
from gare.tracking.tracker import Changes, Denied, Found, Gone, Refused, Unreachable

START_TAG, PARENT_TAG, NOTE_TAG = "gare.start", "mlflow.parentRunId", "mlflow.note.content"
EXPERIMENT_TAGS = (
    ("mlflow.experimentKind", "custom_model_development"),
    ("mlflow.experiment.primaryMetric.name", "best/dev/t2v/R_at_1"),
    ("mlflow.experiment.primaryMetric.greaterIsBetter", "True"),
)
"""Tags for MLflow's page: the experiment trains models, and its primary metric."""
POINTS_PER_CALL = 1000
PARAMETERS_PER_CALL = 100
LOCK_SECONDS = 120.0
FINAL = frozenset({
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "NOT_FOUND",
    "ENDPOINT_NOT_FOUND", "MALFORMED_REQUEST", "NOT_IMPLEMENTED",
})  # fmt: skip
"""Errors that a retry would not change."""
DENIED = frozenset({"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"})
"""Errors for missing or wrong credentials: HTTP 401 and 403."""
CREDENTIALS = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


class MlflowTracker:
    """One experiment of one MLflow store (``gare.tracking.tracker.Tracker``)."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self._experiment_id: str | None = None

    def find(self, record: Record, parent: str | None) -> Found:
        """Find the run by its id, else by its token, else create it."""
        experiment = self.experiment_id
        with self.asking() as mlflow:
            if record.run_id is not None:
                run = self._known(mlflow, record.run_id)
                if run.info.lifecycle_stage != "active":
                    raise Gone(f"the run {record.run_id} is deleted")
                if run.info.experiment_id != experiment:
                    raise Gone(f"the run {record.run_id} is of another experiment than {self.experiment!r}")
            else:
                found = mlflow.search_runs([experiment], f"tags.`{START_TAG}` = '{record.token}'", max_results=1)
                if not found and record.begun_ms is None:
                    raise Unreachable("the run is not recorded yet")
                run = found[0] if found else self._create(mlflow, experiment, record, parent)
            # No public call returns the last steps of all metrics at once.
            metrics = run.data._metric_objs  # noqa: SLF001
        latest = {metric.key: (int(metric.step), int(metric.timestamp), float(metric.value)) for metric in metrics}
        return Found(str(run.info.run_id), latest, frozenset(run.data.params))

    def _known(self, mlflow: Any, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return mlflow.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise Gone(first_line(error)) from error
            raise

    def _create(self, mlflow: Any, experiment: str, record: Record, parent: str | None) -> Any:
        tags = record.tags | {START_TAG: record.token} | ({PARENT_TAG: parent} if parent else {})
        return mlflow.create_run(experiment, record.begun_ms, run_name=record.name, tags=tags)

    def log(self, run_id: str, changes: Changes) -> None:
        """Send the changes. Points that the store already has, with the same time, change nothing."""
        from mlflow.entities import Metric, Param, RunTag

        tags = dict(changes.tags) | ({} if changes.description is None else {NOTE_TAG: changes.description})
        params = [Param(key, value) for key, value in changes.params.items()]
        metrics = [Metric(*point) for point in changes.points]
        with self.asking() as mlflow:
            if tags:
                mlflow.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            for start in range(0, len(params), PARAMETERS_PER_CALL):
                mlflow.log_batch(run_id, params=params[start : start + PARAMETERS_PER_CALL])
            for start in range(0, len(metrics), POINTS_PER_CALL):
                mlflow.log_batch(run_id, metrics=metrics[start : start + POINTS_PER_CALL])
            if changes.dataset:
                _log_dataset(mlflow, run_id, changes)
            if changes.status == "RUNNING":
                mlflow.update_run(run_id, status="RUNNING")
            elif changes.status is not None and (
                changes.ended_ms or mlflow.get_run(run_id).info.status != changes.status
            ):
                mlflow.set_terminated(run_id, changes.status, changes.ended_ms)

    def copy(self, run_id: str, path: Path, to: str) -> None:
        """Copy it; Refused if the artifact store fails while the tracker answers, since waiting would not help."""
        from mlflow.exceptions import MlflowException

        with self.asking() as mlflow:
            for last in (False, True):
                mlflow.get_run(run_id)
                try:
                    if path.is_dir():
                        mlflow.log_artifacts(run_id, str(path), to)
                    else:
                        mlflow.log_artifact(run_id, str(path), os.path.dirname(to) or None)  # noqa: PTH120
                except (MlflowException, OSError) as error:
                    mlflow.get_run(run_id)
                    if last:
                        raise Refused(f"the place of artifacts: {first_line(error)}") from error
                else:
                    return

    @contextmanager
    def asking(self) -> Iterator[Any]:
        """Yield the client; errors of MLflow become Refused, Denied or Unreachable."""
        from mlflow.exceptions import MlflowException, RestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield client(self.uri)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            code, says = getattr(error, "error_code", None), first_line(error)
            # A proxy's 404, while the server restarts, is not an answer from MLflow.
            of_proxy = str(code).endswith("NOT_FOUND") and not isinstance(error, RestException)
            if code in FINAL and not of_proxy:
                raise Refused(says) from error
            raise (Denied(says, CREDENTIALS) if code in DENIED else Unreachable(says)) from error

    @property
    def experiment_id(self) -> str:
        """Return the experiment's id; the store's schema and the experiment are made if missing."""
        if self._experiment_id is None:
            self._experiment_id = self._open()
        return self._experiment_id

    def _open(self) -> str:
        database = sqlite_path(self.uri)
        with _schema(database), self.asking() as mlflow:
            found = mlflow.get_experiment_by_name(self.experiment)
            if found is None:
                found = self._make(mlflow, database)
            elif database is not None:
                artifact_place(database, self.experiment, found.artifact_location)
        if found.lifecycle_stage != "active":
            raise Refused(f"the experiment {self.experiment!r} is deleted; restore it or set runtime.experiment")
        return str(found.experiment_id)

    def _make(self, mlflow: Any, database: Path | None) -> Any:
        """Create the experiment; artifacts of a SQLite file go next to it, a server decides on its own place."""
        from mlflow.exceptions import MlflowException

        location = artifact_place(database, self.experiment, None) if database is not None else None
        try:
            mlflow.create_experiment(self.experiment, artifact_location=location, tags=dict(EXPERIMENT_TAGS))
        except MlflowException:
            found = mlflow.get_experiment_by_name(self.experiment)  # another process was faster
            if found is None:
                raise
            return found
        return mlflow.get_experiment_by_name(self.experiment)


@lru_cache
def client(uri: str) -> Any:
    """Return the one client of a store; making it creates the schema of a local one."""
    # The user did not ask MLflow to report usage over the network.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that does not answer must cost seconds, not MLflow's own minutes, before work continues without it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri)


def _log_dataset(mlflow: Any, run_id: str, changes: Changes) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    values = changes.dataset
    # MLflow keeps 36 characters of a dataset's digest.
    made = Dataset(values["name"], values["digest"][:36], "local", json.dumps({"uri": redact(values["source"])}))
    mlflow.log_inputs(run_id, datasets=[DatasetInput(made, [InputTag("mlflow.data.context", "training")])])


@contextmanager
def _schema(database: Path | None) -> Iterator[None]:
    """Lock a local database while its schema is made: two processes that do so at once break it."""
    if database is None:
        yield
        return
    with lock_within(database.with_name(f"{database.name}.lock"), LOCK_SECONDS):
        yield

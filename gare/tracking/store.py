"""One experiment of one MLflow store, asked so that an answer, a refusal and silence are told apart."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from gare.common.errors import RunError
from gare.common.redact import redact
from gare.common.sqlite import sqlite_path
from gare.tracking.names import Point

OFFLINE = "offline-"
"""What the ids of runs begin with that were started while the store was away: the rest is their tag ``START_TAG``."""
START_TAG = "gare.start"
EXPERIMENT_TAGS = (
    ("mlflow.experimentKind", "custom_model_development"),
    ("mlflow.experiment.primaryMetric.name", "best/dev/t2v/R_at_1"),
    ("mlflow.experiment.primaryMetric.greaterIsBetter", "True"),
)
"""For MLflow's page: this is about training models, and which figure is the first to look at."""
POINTS_PER_CALL = 1000
PARAMETERS_PER_CALL = 100
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0
FINAL = frozenset({
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "NOT_FOUND",
    "ENDPOINT_NOT_FOUND", "MALFORMED_REQUEST", "NOT_IMPLEMENTED",
})  # fmt: skip
"""Answers that asking again would not change."""
DENIED = frozenset({"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"})
"""Answers to missing or wrong credentials: HTTP 401 and 403."""
CREDENTIALS = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


class Unreachable(Exception):  # noqa: N818 - a state, not a mistake
    """The store does not answer now, or is not able to."""


class Denied(Unreachable):
    """The store answers, but not to who asks: 401 or 403. Other credentials may be accepted."""


class Refused(Exception):  # noqa: N818
    """The store answered no, and would again."""


class Store:
    """Make them with ``store``, so that a process has one of each."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self._experiment_id: str | None = None
        self._runs: dict[str, str] = {}
        self._wait, self._again_at = FIRST_WAIT, 0.0

    @property
    def waiting(self) -> bool:
        """Whether the store was away a moment ago, so that asking now would only cost time."""
        return time.monotonic() < self._again_at

    @contextmanager
    def asking(self) -> Iterator[Any]:
        """Yield the client; whatever MLflow raises becomes Refused or Unreachable."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield client(self.uri)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            says = first_line(error)
            code = getattr(error, "error_code", None)
            if code in FINAL:
                raise Refused(says) from error
            self._again_at = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            raise (Denied if code in DENIED else Unreachable)(says) from error
        else:
            self._wait, self._again_at = FIRST_WAIT, 0.0

    def open(self, artifact_root: Path | None) -> None:
        """Create the store's schema and the experiment where missing; RunError for an experiment that is deleted.

        ``artifact_root``: absolute folder for the artifacts of a new experiment; None leaves it to a server.
        """
        with _one_at_a_time(self.uri), self.asking() as mlflow:
            found = mlflow.get_experiment_by_name(self.experiment)
            if found is None:
                found = self._create(mlflow, artifact_root)
        if found.lifecycle_stage != "active":
            raise RunError(
                f"The MLflow experiment {self.experiment!r} is deleted; restore it or set runtime.experiment."
            )
        self._experiment_id = str(found.experiment_id)

    def _create(self, mlflow: Any, artifact_root: Path | None) -> Any:
        from mlflow.exceptions import MlflowException

        if artifact_root is not None:
            artifact_root.mkdir(parents=True, exist_ok=True)
        location = artifact_root.resolve().as_uri() if artifact_root is not None else None
        try:
            mlflow.create_experiment(self.experiment, artifact_location=location, tags=dict(EXPERIMENT_TAGS))
        except MlflowException:
            found = mlflow.get_experiment_by_name(self.experiment)  # another process was faster
            if found is None:
                raise
            return found
        return mlflow.get_experiment_by_name(self.experiment)

    @property
    def experiment_id(self) -> str:
        """The experiment's id."""
        if self._experiment_id is None:
            self.open(None)
        return str(self._experiment_id)

    def create(self, name: str, tags: Mapping[str, str], begun_ms: int, token: str | None) -> str:
        """Create a run, or find the one that an earlier call with the same ``token`` created; returns its id."""
        known = self._started_as(token) if token is not None else None
        if known is not None:
            return known
        every = dict(tags) | ({START_TAG: token} if token is not None else {})
        parent = every.get("mlflow.parentRunId")
        if parent is not None:
            every["mlflow.parentRunId"] = self.run(parent)
        experiment = self.experiment_id
        with self.asking() as mlflow:
            return str(mlflow.create_run(experiment, begun_ms, run_name=name, tags=every).info.run_id)

    def run(self, run_id: str) -> str:
        """A run's id in the store; Unreachable for one started while the store was away that is not there yet."""
        if not run_id.startswith(OFFLINE):
            return run_id
        if run_id not in self._runs:
            found = self._started_as(run_id.removeprefix(OFFLINE))
            if found is None:
                raise Unreachable(f"the run {run_id} is not recorded yet")
            self._runs[run_id] = found
        return self._runs[run_id]

    def _started_as(self, token: str) -> str | None:
        experiment = self.experiment_id
        with self.asking() as mlflow:
            found = mlflow.search_runs([experiment], f"tags.`{START_TAG}` = '{token}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        """Log metrics, in order. Those that the store has already, with the same time, change nothing."""
        from mlflow.entities import Metric

        run_id = self.run(run_id)
        for start in range(0, len(points), POINTS_PER_CALL):
            with self.asking() as mlflow:
                mlflow.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + POINTS_PER_CALL]])

    def reached(self, run_id: str) -> dict[str, int]:
        """The last step the store has of each metric of a run."""
        run_id = self.run(run_id)
        with self.asking() as mlflow:
            metrics = mlflow.get_run(run_id).data._metric_objs  # noqa: SLF001 - nothing public tells the steps at once
        return {metric.key: int(metric.step) for metric in metrics}


@lru_cache
def store(uri: str, experiment: str) -> Store:
    """This process's view of an experiment."""
    return Store(uri, experiment)


@lru_cache
def client(uri: str) -> Any:
    """The one client of a store; making it creates the schema of a local one."""
    # Nobody asked MLflow to report usage over the network.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that does not answer must cost seconds, not MLflow's own minutes, before work goes on without it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri)


def first_line(error: BaseException) -> str:
    """What an error says first, without credentials."""
    return redact((str(error).strip() or type(error).__name__).splitlines()[0])


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Hold a local database while its schema is made: two processes that do so at once break it."""
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    path = database.with_name(f"{database.name}.lock")
    with ExitStack() as held:
        # Where the folder cannot be written MLflow says better what is wrong; some file systems have no locks.
        with suppress(OSError):
            fcntl.flock(held.enter_context(path.open("w")), fcntl.LOCK_EX)
        yield

"""MLflow: runs, parameters, metrics and artifacts. The only place in gare/ that knows it.

Everything goes through ``MlflowClient`` with an explicit store; nothing touches MLflow's global state. The driver
opens the store, which creates its schema and the experiment, before any worker starts: two processes that create a
SQLite store at once break it.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import gare
from gare.common.console import warn
from gare.common.errors import RunError
from gare.common.files import canonical_json, make_folder
from gare.config import Config, RuntimeConfig
from gare.config.tree import flatten, to_yaml

Status = Literal["FINISHED", "FAILED", "KILLED"]

PARENT_TAG = "mlflow.parentRunId"
LIBRARIES = ("torch", "ray", "transformers", "mlflow", "numpy")
NAME_CHARACTERS = 250
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 8000
PARAMETERS_PER_CALL = 100
METRICS_PER_CALL = 1000
WARNING_TAG = "gare.warning"
NOT_METRICS = frozenset({"step", "total", "history"})

_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-. :/]")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_warned: set[str] = set()
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class RunHandle:
    """Where a run is tracked, for other processes: the MLflow store, its experiment and the run's id."""

    uri: str
    experiment: str
    run_id: str


def metric_name(name: str) -> str:
    """Give the name MLflow accepts: ``@`` becomes ``_at_``, any other illegal character ``_x<hex>_``.

    Raises ValueError for a name MLflow could not keep apart as a path (``a//b``, ``../a``, empty) or too long.
    """
    clean = _ILLEGAL.sub(lambda found: f"_x{ord(found.group()):02x}_", name.replace("@", "_at_"))
    if not clean or len(clean) > NAME_CHARACTERS or any(part in {"", ".", ".."} for part in clean.split("/")):
        raise ValueError(f"{name!r} cannot name a metric.")
    return clean


def resolve_uri(runtime: RuntimeConfig) -> str:
    """Find the store: ``runtime.tracking_uri``, else MLFLOW_TRACKING_URI, else SQLite in the output folder.

    A relative SQLite path is made absolute, since workers run in other folders, and its folder is created.
    """
    uri = runtime.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        uri = f"sqlite:///{Path(runtime.output).resolve() / 'mlflow.db'}"
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///")).resolve()
        if path.is_dir():
            raise RunError(f"runtime.tracking_uri names the folder {path}; a sqlite:/// address ends with a file.")
        make_folder(path.parent)
        uri = f"sqlite:///{path}"
    return uri


def redact(text: str) -> str:
    """Blot out the credentials of any URL in a text."""
    return _CREDENTIALS.sub("***@", text)


class Tracker:
    """One experiment of one MLflow store.

    Opening it and starting runs raise RunError when the store cannot be used. Everything later only warns: a
    store that goes away must not cost a training run.
    """

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None = None) -> None:
        """Create the store's schema and the experiment where missing.

        ``artifact_root``: absolute folder for the artifacts of a new experiment; None leaves it to a server.
        """
        self.uri, self.experiment = uri, experiment
        self._client = _client(uri)
        self._experiment_id = self._open(artifact_root)

    @classmethod
    def open(cls, runtime: RuntimeConfig) -> Tracker:
        """Open the store and the experiment of the settings."""
        uri = resolve_uri(runtime)
        local = uri.startswith("sqlite:")
        return cls(uri, runtime.experiment, Path(runtime.output).resolve() / "mlflow-artifacts" if local else None)

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
    ) -> str:
        """Start a run and return its id.

        Its settings become parameters by dotted key and the artifact ``config.yaml``; tags tell the code, the
        libraries and the machine.
        """
        every = environment() | {"gare.config_digest": config.digest()} if config else environment()
        every = every | dict(tags) | ({PARENT_TAG: parent_run_id} if parent_run_id else {})
        every = {key: redact(value)[:TAG_CHARACTERS] for key, value in every.items()}
        with _must("start a run in", self.uri):
            run_id = str(self._client.create_run(self._experiment_id, run_name=name, tags=every).info.run_id)
        if config is not None:
            self._parameters(run_id, config)
            with _best_effort(self.uri):
                self._client.log_text(run_id, redact(to_yaml(config)), "config.yaml")
        return run_id

    def resume(self, run_id: str) -> None:
        """Take up a run that ended or was interrupted; RunError when the store does not have it."""
        with _must(f"find the run {run_id} in", self.uri):
            self._client.update_run(run_id, status="RUNNING")

    def metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Log one step's metrics in one call, names by ``metric_name``; infinities become NaN, as MLflow keeps none."""
        self.history(run_id, [(step, values)])

    def history(self, run_id: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log the metrics of many steps in few calls."""
        _log(self._client, self.handle(run_id), rows)

    def dataset(self, run_id: str, digests: Mapping[str, str]) -> None:
        """Record which data the run saw, each digest under its name, as tags and as MLflow datasets."""
        from mlflow.entities import Dataset, DatasetInput, RunTag

        tags = [RunTag(name, digest) for name, digest in digests.items()]
        # MLflow keeps 36 characters of a dataset's digest; the tag has all of it.
        inputs = [DatasetInput(Dataset(name, digest[:36], "local", "{}")) for name, digest in digests.items()]
        with _best_effort(self.uri):
            self._client.log_batch(run_id, tags=tags)
            self._client.log_inputs(run_id, datasets=inputs)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        with _best_effort(self.uri):
            self._client.log_batch(
                run_id, tags=[RunTag(key, redact(value)[:TAG_CHARACTERS]) for key, value in tags.items()]
            )

    def artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts."""
        with _best_effort(self.uri):
            self._client.log_artifact(run_id, str(path), folder)

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """End the run."""
        with _best_effort(self.uri):
            self._client.set_terminated(run_id, status)

    def _open(self, artifact_root: Path | None) -> str:
        with _must("use", self.uri):
            found = self._client.get_experiment_by_name(self.experiment)
            if found is None:
                if artifact_root is not None:
                    artifact_root.mkdir(parents=True, exist_ok=True)
                location = artifact_root.resolve().as_uri() if artifact_root is not None else None
                return str(self._client.create_experiment(self.experiment, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise RunError(
                f"The MLflow experiment {self.experiment!r} is deleted; restore it or set runtime.experiment."
            )
        return str(found.experiment_id)

    def _parameters(self, run_id: str, config: Config) -> None:
        from mlflow.entities import Param

        entries = [Param(key, _parameter(value)) for key, value in flatten(config).items()]
        with _best_effort(self.uri):
            for start in range(0, len(entries), PARAMETERS_PER_CALL):
                self._client.log_batch(run_id, params=entries[start : start + PARAMETERS_PER_CALL])


def log_report(handle: RunHandle, report: Mapping[str, Any]) -> None:
    """Log a training report: the rows of its ``history`` where it has some, else its own numbers at its step.

    A ``warning`` in a row becomes the tag ``gare.warning``.
    Never raises for a store that cannot be reached.
    """
    rows = report.get("history") or [report]
    try:
        client = _client(handle.uri)
    except RunError as error:
        warn(str(error))
        return
    _log(client, handle, [(int(row.get("step", 0)), _numbers(row)) for row in rows])
    for row in rows:
        if "warning" in row:
            with _best_effort(handle.uri):
                client.set_tag(handle.run_id, WARNING_TAG, str(row["warning"])[:TAG_CHARACTERS])


def environment() -> dict[str, str]:
    """Say what this process runs on, as tags: code, libraries, Python, platform."""
    tags = {"gare.version": gare.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            tags[f"version.{library}"] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags | _code()


@lru_cache
def _client(uri: str) -> Any:
    # Nobody asked MLflow to report usage over the network.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that does not answer must cost seconds, not MLflow's own minutes, before it is warned about.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _must("use", uri):
        return mlflow.MlflowClient(tracking_uri=uri)


def _log(client: Any, handle: RunHandle, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    entries = [
        Metric(metric_name(name), float(value) if math.isfinite(value) else math.nan, now, step)
        for step, values in rows
        for name, value in values.items()
    ]
    with _best_effort(handle.uri):
        for start in range(0, len(entries), METRICS_PER_CALL):
            client.log_batch(handle.run_id, metrics=entries[start : start + METRICS_PER_CALL])


@contextmanager
def _must(action: str, uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = redact((str(error).strip() or type(error).__name__).splitlines()[0])
        raise RunError(
            f"Cannot {action} the MLflow store {redact(uri)}: {first} "
            "Set runtime.tracking_uri to a server or a sqlite:/// file, or runtime.tracking to false."
        ) from None


@contextmanager
def _best_effort(uri: str) -> Iterator[None]:
    """Go on without the store, which is warned about once: what ran into it is not what matters."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if uri not in _warned:
            _warned.add(uri)
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            warn(
                f"MLflow at {redact(uri)} did not record something: {redact(first)} The run goes on, and its "
                "history.jsonl has everything; what else is not recorded is not said again."
            )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if name not in NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _parameter(value: Any) -> str:
    text = redact(value if isinstance(value, str) else canonical_json(value))
    return text if len(text) <= PARAMETER_CHARACTERS else text[: PARAMETER_CHARACTERS - 3] + "..."


@lru_cache
def _code() -> dict[str, str]:
    """Commit and dirty flag where this package is a folder of its own git checkout, not installed inside another's."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        # No optional locks: looking must not disturb a git command running beside us.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") != "gare/":
            return {}
        return {"git.commit": git("rev-parse", "HEAD"), "git.dirty": json.dumps(bool(git("status", "--porcelain")))}
    except (OSError, subprocess.SubprocessError):
        return {}

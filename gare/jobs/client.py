"""Use Ray's job API, with sentences for its errors and jobs as plain values."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gare.common.errors import InputError, RunError
from gare.common.token import use_token, wrong_token

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
COMMAND = "gare"
"""Key of a job's metadata for the gare command as you typed it."""

CONNECT_SECONDS = 10.0
GCS_PORT = "6379"
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})

TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging",
)  # fmt: skip

PYTHON = (
    "python=$(tr '\\0' '\\n' </proc/$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$PPID/status)/cmdline"
    " | sed -n 's/^--python_worker_command=\\([^ ]*\\).*/\\1/p'); python=${python:-python3}"
)
"""Shell that finds the Python of Ray's workers on that node in the arguments of the raylet, its grandparent process."""


@dataclass(frozen=True)
class ClusterJob:
    """A job of the cluster. Times are seconds since 1970; ``exit_code`` is known once its command has ended."""

    id: str
    status: str
    command: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """True if nothing will change any more."""
        return self.status in ENDED

    @property
    def seconds(self) -> float | None:
        """Seconds that it ran, or has been running."""
        return None if self.started is None else max((self.ended or time.time()) - self.started, 0.0)


class Cluster:
    """The job server of a Ray cluster."""

    def __init__(self, client: Any, address: str) -> None:
        self.client, self.address = client, address

    def submit(self, job: str, entrypoint: str, command: str, runtime_env: dict[str, Any]) -> None:
        """Start a job. The folder ``runtime_env["working_dir"]`` is sent with it."""
        with self.sentences():
            self.client.submit_job(
                entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env, metadata={COMMAND: command}
            )

    def job(self, job: str) -> ClusterJob:
        """Return the present state of a job."""
        with self.sentences(job):
            return _job(self.client.get_job_info(job))

    def jobs(self) -> list[ClusterJob]:
        """Return the submitted jobs that the cluster remembers, newest first."""
        with self.sentences():
            found = [_job(details) for details in self.client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def log(self, job: str) -> str:
        """Return what a job has printed so far."""
        with self.sentences(job):
            return str(self.client.get_job_logs(job))

    def stop(self, job: str) -> None:
        """Ask a job to end."""
        with self.sentences(job):
            self.client.stop_job(job)

    @contextmanager
    def sentences(self, job: str = "") -> Iterator[None]:
        """Turn the client's errors into sentences."""
        from ray.exceptions import AuthenticationError
        from requests.exceptions import RequestException

        try:
            yield
        except AuthenticationError:
            raise refused(self.address) from None
        except (RequestException, ConnectionError, TimeoutError):
            raise UnreachableError(f"The cluster at {self.address} does not answer.") from None
        except RuntimeError as error:
            text = str(error)
            if job and "does not exist" in text:
                raise InputError(f"The cluster at {self.address} knows no job {job}; gare jobs lists them.") from None
            raise RunError(f"The cluster at {self.address} refused: {_first_line(text)}") from None


class UnreachableError(RunError):
    """The cluster does not answer."""


def connect(address: str | None) -> Cluster:
    """Connect to the job server at ``address``, RAY_API_SERVER_ADDRESS, RAY_ADDRESS or this machine, in this order."""
    use_token()
    given = address or next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), DEFAULT_ADDRESS)
    url = _url(given)
    _knock(url)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient
    from requests.exceptions import RequestException

    for name in TALKATIVE:  # after the import, which sets their levels
        logging.getLogger(name).setLevel(logging.WARNING)
    with _alone():
        try:
            cluster = Cluster(JobSubmissionClient(url), url)
            cluster.jobs()  # checks the token, which the version does not need
        except AuthenticationError:
            raise refused(url) from None
        except (RequestException, ConnectionError, RuntimeError) as error:
            raise RunError(f"No job server of a Ray cluster is at {url}: {_first_line(str(error))}") from None
    return cluster


def refused(url: str) -> RunError:
    """Return the error for a missing or wrong token."""
    return RunError(wrong_token(f"The cluster at {url}"))


def entrypoint(words: Sequence[str], *, root: str | None, shipped: Sequence[str] = ()) -> str:
    """Return the shell line of a job: gare's words, run by the Python of the cluster's workers.

    ``root``: the folder to run in, if not the job's own; ``shipped``: words that are files in the job's own folder.
    """
    parts = [f'"$job"/{shlex.quote(word)}' if root and word in shipped else shlex.quote(word) for word in words]
    start = f'job=$PWD; export PYTHONPATH="$job:$PYTHONPATH"; cd {shlex.quote(root)} || exit 3; ' if root else ""
    return f'{PYTHON}; {start}exec "$python" {"-P " if root else ""}-m gare {" ".join(parts)}'


def _job(details: Any) -> ClusterJob:
    metadata = details.metadata or {}
    status = getattr(details.status, "value", str(details.status))
    command = metadata.get(COMMAND)
    return ClusterJob(
        id=str(details.submission_id or details.job_id),
        status=status,
        command=f"gare {command}" if command else str(details.entrypoint),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time and status in ENDED else None,
        exit_code=details.driver_exit_code,
        message=str(details.message or ""),
    )


def _url(address: str) -> str:
    """Return the job server's URL. Without http://, an address is the dashboard's host and port, or Ray's own."""
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    port = address.rpartition(":")[2]
    if "://" not in address and port.isdigit() and port != GCS_PORT:
        return f"http://{address}"
    from ray.dashboard.utils import get_address_for_submission_client

    with _alone():
        try:
            return str(get_address_for_submission_client(address))
        except Exception as error:  # noqa: BLE001 - Ray looks for clusters in many ways
            raise RunError(
                f"No Ray cluster is found at {address} ({_first_line(str(error))}); give the address of its "
                f"dashboard, such as --cluster {DEFAULT_ADDRESS}."
            ) from None


def _knock(url: str) -> None:
    """Raise UnreachableError if nothing listens there; Ray's client would wait for minutes."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise UnreachableError(
            f"No Ray cluster answers at {url} ({error.strerror or error}). Give the address of its dashboard with "
            f"--cluster; one that listens on the head alone is reached with ray dashboard CLUSTER.yaml."
        ) from None


@contextmanager
def _alone() -> Iterator[None]:
    """Hide the variables that Ray prefers to a given address."""
    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0]

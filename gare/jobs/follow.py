"""Follow a job: show its log while it is written, despite broken connections, until its outcome."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.markup import escape

from gare.common.console import note, notes
from gare.common.errors import GareError, RunError
from gare.common.records import load_json
from gare.common.redact import printable
from gare.jobs.client import Cluster, ClusterJob, UnreachableError

AWAY_SECONDS = 300.0
"""Longest silence of a cluster before the command stops following; the job continues."""

PAUSE_SECONDS = 1.0
OF_RAY = re.compile(r"^(Running entrypoint for job |\d{4}-\d\d-\d\d [\d:,]+\tINFO job_manager\.py)")
ERROR = "error: "


class JobError(GareError):
    """A job failed or was stopped. The exit code is its command's, if that gave one."""

    def __init__(self, message: str, exit_code: int, *, result: dict[str, Any]) -> None:
        super().__init__(message, result=result)
        self.exit_code = exit_code


class Log:
    """A job's log; each line is shown once, however often it is read, without Ray's own lines."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._rest, self._read = show, "", 0
        self.error = ""
        self.last = ""

    def more(self, text: str) -> None:
        """Add the text that follows what was read."""
        self._read += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def again(self, text: str, at: int) -> int:
        """Add text that starts ``at`` characters into the log, skipping what was read; return where it ends."""
        end = at + len(text)
        if end > self._read:
            self.more(text[max(self._read - at, 0) :])
        return end

    def close(self) -> None:
        """Show the rest when nothing follows."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""

    def _line(self, line: str) -> None:
        if OF_RAY.match(line):
            return
        if line.startswith(ERROR):
            self.error = line.removeprefix(ERROR).strip()
        if line.strip():
            self.last = line.strip()
        self._show(line)


def follow(cluster: Cluster, name: str, log: Log) -> ClusterJob:
    """Show a job's log until it ends, and return its final state. A broken connection is retried for a while."""
    _wait_for_start(cluster, name)
    away = Away(name)
    while True:
        with suppress(Exception):  # whatever broke the connection; the job's state is read next
            asyncio.run(_tail(cluster, name, log))
        try:
            job = cluster.job(name)
        except UnreachableError:
            away.endure()
            continue
        away.back()
        if job.has_ended:
            break
        time.sleep(PAUSE_SECONDS)
    with suppress(GareError):  # its node, and so the log, may be gone
        log.again(cluster.log(name), 0)
    log.close()
    return job


def outcome(job: ClusterJob, log: Log | None, result: dict[str, Any]) -> None:
    """Raise JobError unless the job succeeded, with the last error line of its log or Ray's own message."""
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        raise JobError(f"The job {job.id} was stopped.", RunError.exit_code, result=result)
    code = job.exit_code
    reason = (log.error or log.last) if log is not None and code is not None else ""
    if not reason:
        reason = _reason(job.message)
    if code is not None and 0 < code < 256:
        raise JobError(f"The job {job.id} ended with exit code {code}: {reason}", code, result=result)
    how = f"was ended by signal {-code}" if code is not None and code < 0 else "failed"
    raise JobError(f"The job {job.id} {how}: {reason}", RunError.exit_code, result=result)


def printed_result(line: str) -> Any:
    """Return the JSON object that a command with --json printed last; None if the line is something else."""
    with suppress(ValueError):
        value = load_json(line)
        return value if isinstance(value, dict) else None
    return None


class Away:
    """Tracks how long a cluster has been silent."""

    def __init__(self, job: str) -> None:
        self._job, self._since = job, 0.0

    def endure(self) -> None:
        """Wait a little. Raises RunError if the silence has been too long."""
        if not self._since:
            self._since = time.monotonic()
            note("The cluster does not answer; trying again.")
        if time.monotonic() - self._since > AWAY_SECONDS:
            raise RunError(
                f"The cluster has been silent for {AWAY_SECONDS:.0f} s; the job {self._job} may go on: "
                f"gare logs {self._job} --follow."
            )
        time.sleep(PAUSE_SECONDS)

    def back(self) -> None:
        """Record that it answers."""
        if self._since:
            note("The cluster answers again.")
        self._since = 0.0


def _wait_for_start(cluster: Cluster, name: str) -> None:
    away = Away(name)
    with notes().status(escape(printable(f"The job {name} waits for the cluster to start it."))):
        while True:
            try:
                if cluster.job(name).status != "PENDING":
                    return
                away.back()
            except UnreachableError:
                away.endure()
            time.sleep(PAUSE_SECONDS / 2)


async def _tail(cluster: Cluster, name: str, log: Log) -> None:
    at = 0  # every connection sends the log from its beginning
    async for text in cluster.client.tail_job_logs(name):
        at = log.again(text, at)


def _reason(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (errors or lines or ["Ray gives no reason"])[-1]

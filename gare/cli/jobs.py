"""``gare submit``, ``gare jobs``, ``gare logs`` and ``gare stop``: run commands as jobs of a Ray cluster."""

from __future__ import annotations

import secrets
import shlex
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import JSON, gare_command
from gare.common.console import note, print_table, say

if TYPE_CHECKING:
    from gare.jobs.client import Cluster, ClusterJob
    from gare.jobs.submitted import Line

INTERRUPTED = 130
STOP_SECONDS = 30.0
COMMAND_WIDTH = 100

cluster_option = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="The cluster's dashboard, such as http://127.0.0.1:8265; by default RAY_ADDRESS, or this machine's.",
)


@gare_command(
    "submit",
    short_help="Run a gare command as a job of a Ray cluster.",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND...")
@cluster_option
@click.option(
    "--root",
    envvar="GARE_ROOT",
    metavar="FOLDER",
    help="Folder on the cluster that the command runs in; all nodes must see it. Relative paths start there.",
)
@click.option("--no-wait", is_flag=True, help="Return as soon as the job is submitted.")
def submit(words: tuple[str, ...], cluster: str | None, root: str | None, no_wait: bool) -> dict[str, Any]:
    """Run the gare command COMMAND... as a job of a Ray cluster, and follow it to its end.

    Your config files are sent along, and so is the code if gare runs from a checkout; otherwise the cluster's own gare
    runs the command. Data and results are not sent: their paths are those of the cluster. Ctrl-C stops showing the log,
    but the job keeps running. You get the command's exit code.

    \b
    Examples:
      gare submit --root /mnt/gare -- train configs/msrvtt.yaml --shards shards
      gare submit --no-wait -- prepare s3://bucket/manifest.parquet --out s3://bucket/shards
      gare submit --cluster http://10.0.0.4:8265 -- sweep configs/demo.yaml --set runtime.root=/mnt/gare
    """
    from gare.jobs.places import check_places
    from gare.jobs.submitted import understand

    line = understand(words, click.get_current_context().find_root().command)
    check_places(line.places, root)
    json_output = bool(click.get_current_context().params.get("json_output"))
    if json_output and not no_wait and JSON not in line.words:
        line.words.append(JSON)
    from gare.jobs.client import connect

    server = connect(cluster)
    name = f"gare-{line.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with _detaching(name):
        _send(server, name, line, shlex.join(words), root)
        note(f"Submitted the job {name} to {server.address}.")
        result = {"job": name, "address": server.address}
        if no_wait:
            note(f"Follow it with gare logs {name} --follow, stop it with gare stop {name}.")
            return result
        return _follow(server, name, result, with_result=JSON in line.words)


@gare_command("jobs", short_help="List the jobs of a Ray cluster.")
@cluster_option
def jobs(cluster: str | None) -> dict[str, Any]:
    """List the jobs that were submitted to a Ray cluster, the newest first.

    \b
    Example:
      gare jobs --cluster http://127.0.0.1:8265
    """
    from gare.jobs.client import connect

    found = connect(cluster).jobs()
    rows = [[job.id, _state(job), _ago(job.started), _duration(job.seconds), _short(job.command)] for job in found]
    print_table("Jobs", ["job", "state", "started", "ran for", "command"], rows)
    return {"jobs": [asdict(job) | {"seconds": job.seconds} for job in found]}


@gare_command("logs", short_help="Show what a job of a Ray cluster prints.")
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Follow until the job ends; you get its command's exit code.")
@cluster_option
def logs(job: str, follow: bool, cluster: str | None) -> dict[str, Any]:
    """Show what the job named JOB has printed so far.

    \b
    Example:
      gare logs gare-train-20270131-120000-1a2b3c --follow
    """
    from gare.jobs.client import connect
    from gare.jobs.follow import Log

    server = connect(cluster)
    if follow:
        server.job(job)
        with _detaching(job):
            return _follow(server, job, {"job": job, "address": server.address})
    log = Log(_print_line)
    log.more(server.log(job))
    log.close()
    return {"job": job, "status": server.job(job).status}


@gare_command("stop", short_help="Stop a job of a Ray cluster.")
@click.argument("job")
@cluster_option
def stop(job: str, cluster: str | None) -> dict[str, Any]:
    """Stop the job named JOB. What it has finished stays; submit the same command again and it continues.

    \b
    Example:
      gare stop gare-train-20270131-120000-1a2b3c
    """
    from gare.jobs.client import connect

    server = connect(cluster)
    before = server.job(job)
    if before.has_ended:
        note(f"The job {job} has ended already: {_state(before)}.")
        return {"job": job, "status": before.status}
    server.stop(job)
    deadline = time.monotonic() + STOP_SECONDS
    while not (now := server.job(job)).has_ended and time.monotonic() < deadline:
        time.sleep(0.5)
    note(f"The job {job}: {_state(now)}." if now.has_ended else f"The job {job} was asked to stop.")
    return {"job": job, "status": now.status}


def _send(server: Cluster, name: str, line: Line, typed: str, root: str | None) -> None:
    from gare.jobs.client import entrypoint
    from gare.jobs.package import checkout, make_package
    from gare.jobs.places import SUBMITTED, seen_here

    with tempfile.TemporaryDirectory(prefix="gare-submit-") as scratch:
        package = make_package(Path(scratch), line.configs, code=checkout())
        environment: dict[str, Any] = {"env_vars": {SUBMITTED: seen_here(line.places)}}
        if package.files:
            environment["working_dir"] = str(package.folder)
        code = f"the code of {package.checkout}" if package.checkout else "no code, since gare is installed here"
        note(f"Sending {', '.join([code, *map(str, line.configs.values())])}: {package.size / 1e6:.1f} MB.")
        command = entrypoint(line.words, root=root, shipped=list(line.configs))
        server.submit(name, command, typed, environment)


def _follow(server: Cluster, name: str, result: dict[str, Any], *, with_result: bool = False) -> dict[str, Any]:
    """Show a job's log until it ends, and return its result. Raises JobError if the job fails."""
    from gare.jobs.follow import Log, follow, outcome, printed_result

    log = Log(_print_line)
    job = follow(server, name, log)
    result |= {"status": job.status, "exit_code": job.exit_code, "seconds": job.seconds}
    if with_result:
        result["result"] = printed_result(log.last)
    outcome(job, log, result)
    note(f"The job {name} succeeded in {_duration(job.seconds)}.")
    return result


@contextmanager
def _detaching(name: str) -> Iterator[None]:
    """Make Ctrl-C inside the block end the command and not the job."""
    from gare.jobs.follow import JobError

    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    # Not Python's own handler: asyncio would replace it with another, which is lost if a task ends at that moment.
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise JobError(
            f"Interrupted here; the job {name} keeps running. Follow it with gare logs {name} --follow, stop it with "
            f"gare stop {name}.",
            INTERRUPTED,
            result={"job": name},
        )


def _print_line(line: str) -> None:
    say(click.unstyle(line))


def _state(job: ClusterJob) -> str:
    code = f" (exit code {job.exit_code})" if job.status == "FAILED" and job.exit_code is not None else ""
    return job.status.lower() + code


def _short(command: str) -> str:
    return command if len(command) <= COMMAND_WIDTH else command[: COMMAND_WIDTH - 3] + "..."


def _ago(moment: float | None) -> str:
    return "" if moment is None else f"{timedelta(seconds=round(max(time.time() - moment, 0)))} ago"


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))

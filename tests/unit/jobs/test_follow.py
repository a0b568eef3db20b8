"""A job's log and outcome, over connections that break."""

from __future__ import annotations

import asyncio
import os
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.common.errors import RunError
from gare.jobs import follow as following
from gare.jobs.client import Cluster, ClusterJob, connect, entrypoint
from gare.jobs.follow import JobError, Log, follow, outcome, printed_result

TEXT = "Running entrypoint for job x: python\n2027-01-01 00:00:00,000\tINFO job_manager.py:581 -- Runtime env\n"


def shown(feed):
    lines = []
    log = Log(lines.append)
    feed(log)
    log.close()
    return lines, log


@given(st.text(alphabet="ab\n", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_every_line_is_shown_once_however_often_the_log_is_read(text, connections):
    def feed(log):
        for length in connections:  # each connection tells the log from its beginning, and breaks somewhere
            at = 0
            for start in range(0, min(length, len(text)), 7):
                at = log.again(text[start : min(start + 7, length)], at)
        log.again(text, 0)

    lines, _ = shown(feed)
    assert "".join(f"{line}\n" for line in lines) == (text if text.endswith("\n") or not text else text + "\n")


def test_rays_own_lines_are_left_out_and_the_last_error_kept():
    lines, log = shown(lambda log: log.more(TEXT + "epoch 1\nerror: first\nerror: second\n\nmore"))
    assert lines == ["epoch 1", "error: first", "error: second", "", "more"]
    assert (log.error, log.last) == ("second", "more")


class Client:
    """Ray's client as far as following needs it: connections that break and answers that fail."""

    def __init__(self, text, statuses, code=0):
        self.text, self.statuses, self.code = text, list(statuses), code
        self.connections = 0

    def get_job_info(self, name):
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == "away":
            raise ConnectionError
        return SimpleNamespace(
            submission_id=name, job_id=None, status=status, metadata={"gare": "config"}, entrypoint="", start_time=1000,
            end_time=3000, driver_exit_code=self.code, message="Ray says\nwhat it knows",
        )  # fmt: skip

    async def tail_job_logs(self, _):
        self.connections += 1
        await asyncio.sleep(0)
        yield self.text[: 5 * self.connections]
        raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_logs(self, _):
        return self.text


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.0)


def test_following_survives_broken_connections_and_a_silent_cluster():
    client = Client("one\ntwo\nthree\n", ["PENDING", "away", "RUNNING", "RUNNING", "away", "RUNNING", "SUCCEEDED"])
    lines = []
    job = follow(Cluster(client, "http://x"), "j", Log(lines.append))
    assert lines == ["one", "two", "three"]
    assert (job.status, job.exit_code, job.seconds, client.connections) == ("SUCCEEDED", 0, 2.0, 4)


def test_a_cluster_that_stays_silent_is_given_up_and_the_job_named(monkeypatch):
    monkeypatch.setattr(following, "AWAY_SECONDS", 0.0)
    with pytest.raises(RunError, match="the job j may go on: gare logs j --follow"):
        follow(Cluster(Client("", ["away"]), "http://x"), "j", Log(print))


def ended(status, code, message="Ray says\nerror: its error"):
    return ClusterJob("j", status, "gare config", 1.0, 2.0, code, message)


@pytest.mark.parametrize(
    ("job", "log", "code", "says"),
    [
        (ended("FAILED", 3), "x\nerror: No shards.\nnoise\n", 3, "ended with exit code 3: No shards."),
        (ended("FAILED", 1), "Segmentation fault\n", 1, "ended with exit code 1: Segmentation fault"),
        (ended("FAILED", -9), "epoch 1\n", 4, "was ended by signal 9: epoch 1"),
        (ended("FAILED", None, "a\nno such node\n"), "x\n", 4, "failed: no such node"),
        (ended("FAILED", 2), None, 2, "ended with exit code 2: its error"),
        (ended("FAILED", None, ""), None, 4, "failed: Ray gives no reason"),
        (ended("STOPPED", None), "x\n", 4, "was stopped"),
    ],
)
def test_a_job_that_ended_badly_gives_its_exit_code_and_its_last_error(job, log, code, says):
    _, read = shown(lambda it: it.more(log)) if log else (None, None)
    with pytest.raises(JobError, match=says) as error:
        outcome(job, read, {"job": "j"})
    assert error.value.exit_code == code
    assert error.value.result == {"job": "j"}


def test_a_job_that_succeeded_is_no_error():
    outcome(ended("SUCCEEDED", 0), None, {})


@pytest.mark.parametrize(("line", "value"), [('{"a": 1}', {"a": 1}), ("[1]", None), ("", None), ("{", None)])
def test_the_result_is_the_json_object_printed_last(line, value):
    assert printed_result(line) == value


@pytest.mark.parametrize("root", [None, "root with space"])
def test_the_shell_line_gives_every_word_as_it_is(tmp_path, root):
    """There is no raylet above this shell, so the line falls back to python3: here one that tells its words."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python3"
    python.write_text('#!/bin/sh\npwd\nprintf "%s|" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "job").mkdir()
    words = ["search", "a 'small' $HOME `x`", "submitted/a b.yaml", "--set=x={y: 1}"]
    there = None
    if root:
        there = str(tmp_path / root)
        (tmp_path / root).mkdir()
    line = entrypoint(words, root=there, shipped=["submitted/a b.yaml"])
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path / "job", env=env, capture_output=True, text=True)
    folder, _, told = done.stdout.partition("\n")
    assert folder == (there or str(tmp_path / "job"))
    if there:
        words[2] = f"{tmp_path}/job/submitted/a b.yaml"
    assert told.split("|")[:-1] == [*(["-P"] if there else []), "-m", "gare", *words]


def test_nobody_at_the_address_is_one_sentence(free_port):
    with pytest.raises(RunError, match=f"No Ray cluster answers at http://127.0.0.1:{free_port}"):
        connect(f"127.0.0.1:{free_port}")

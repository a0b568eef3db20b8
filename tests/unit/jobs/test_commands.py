"""The commands that talk to a cluster, with a cluster that is made up."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from gare.cli import cli
from gare.cli.command import call
from gare.jobs import client, follow
from gare.jobs.client import Cluster, ClusterJob
from gare.jobs.follow import Log
from gare.jobs.places import SUBMITTED

TOKEN = "5e" * 32


class Made(Cluster):
    """A cluster that keeps what it is sent, and whose jobs print ``text`` and end as ``job`` says."""

    def __init__(self, job=("SUCCEEDED", 0), text=""):
        super().__init__(self, "http://made")
        self.ended, self.text, self.sent, self.stopped = job, text, [], []

    def submit(self, job, entrypoint, command, runtime_env):
        folder = Path(runtime_env["working_dir"])
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        self.sent.append((job, entrypoint, command, runtime_env, files))

    def job(self, job):
        status, code = ("STOPPED", None) if self.stopped else self.ended
        return ClusterJob(job, status, "gare config", 1.0, 2.0, code, "")

    def jobs(self):
        return [self.job("a"), self.job("b")]

    def log(self, _):
        return self.text

    def stop(self, job):
        self.stopped.append(job)


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GARE_ROOT", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    (tmp_path / "a.yaml").write_text("train: {epochs: 3}")

    def connected(cluster):
        monkeypatch.setattr(client, "connect", lambda _: cluster)
        return cluster

    return connected


def gare(*words):
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(call(cli, words, "gare"))
    return ended.value.code


def test_a_job_holds_code_config_and_command_and_no_token(made, capfd):
    cluster = made(Made())
    assert gare("submit", "--no-wait", "--root", "/mnt/x", "config", "a.yaml", "--set", "train.seed=1") == 0
    [(job, entrypoint, command, environment, files)] = cluster.sent
    assert job.startswith("gare-config-")
    assert command == "config a.yaml --set train.seed=1"
    assert entrypoint.endswith('-m gare config "$job"/submitted/a.yaml --set train.seed=1')
    assert "cd /mnt/x ||" in entrypoint
    assert {"gare/__main__.py", "pipelines/decode/__init__.py", "submitted/a.yaml"} <= files
    assert set(environment) == {"env_vars", "working_dir"}
    assert set(environment["env_vars"]) == {SUBMITTED}
    assert TOKEN not in repr(cluster.sent) + "".join(capfd.readouterr())


def test_the_result_of_the_command_comes_back_under_json(made, capfd):
    cluster = made(Made(text='epoch 1\n{"digest": "x"}\n'))
    assert gare("submit", "--json", "--", "config", "a.yaml") == 0
    printed = capfd.readouterr()
    assert cluster.sent[0][1].endswith("--json")
    result = json.loads(printed.out)
    assert result["result"] == {"digest": "x"}
    assert (result["status"], result["exit_code"]) == ("SUCCEEDED", 0)
    assert "epoch 1" in printed.err


def test_a_failure_keeps_its_exit_code_and_its_sentence_also_in_json(made, capfd):
    made(Made(("FAILED", 2), "error: a.yaml: train.epochs is 0.\n"))
    assert gare("submit", "--json", "--", "config", "a.yaml") == 2
    result = json.loads(capfd.readouterr().out)
    assert result["error"].endswith("ended with exit code 2: a.yaml: train.epochs is 0.")
    assert result["exit_code"] == 2


def test_nothing_is_sent_where_the_command_is_wrong(made, capfd):
    cluster = made(Made())
    assert gare("submit", "--", "config", "a.yaml", "--set", "train.epoch=1") == 2
    assert gare("submit", "--", "train", "a.yaml", "--shards", "x") == 3
    assert gare("submit", "--", "config", "--nothing") == 2
    assert gare("submit") == 3
    assert cluster.sent == []
    assert capfd.readouterr().err.count("error: ") == 4


def test_jobs_are_listed_shown_and_stopped(made, capfd):
    cluster = made(Made(("RUNNING", None), "Running entrypoint for job b: x\nline"))
    assert gare("jobs", "--json") == 0
    assert [job["id"] for job in json.loads(capfd.readouterr().out)["jobs"]] == ["a", "b"]
    assert gare("logs", "b") == 0
    assert capfd.readouterr().out == "line\n"
    assert gare("stop", "b") == 0
    assert cluster.stopped == ["b"]
    assert "stopped" in capfd.readouterr().err


def test_an_interrupt_that_something_swallowed_still_ends_the_command_and_not_the_job(made, capfd):
    class Swallowing(Made):
        def job(self, job):
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            return super().job(job)

    cluster = made(Swallowing())
    before = signal.getsignal(signal.SIGINT)
    assert gare("submit", "--no-wait", "config", "a.yaml") == 0
    assert gare("submit", "config", "a.yaml") == 130
    assert "keeps running. Follow it with gare logs gare-config-" in capfd.readouterr().err
    assert not cluster.stopped
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_between_sending_and_following_leaves_the_job_running(made, capfd, monkeypatch):
    def interrupted(show):
        os.kill(os.getpid(), signal.SIGINT)
        return Log(show)

    monkeypatch.setattr(follow, "Log", interrupted)
    cluster = made(Made())
    assert gare("submit", "config", "a.yaml") == 130
    assert "keeps running. Follow it with gare logs gare-config-" in capfd.readouterr().err
    assert not cluster.stopped

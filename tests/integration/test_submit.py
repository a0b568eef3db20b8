"""``gare submit`` to a real head with a token: from the command to its result, or to its error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from gare.config.tree import to_yaml
from tests.processes import gare
from tests.ray_head import ray_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SECONDS = 180


@pytest.fixture(scope="module")
def head():
    with ray_head() as started:
        yield started


@pytest.fixture
def run(head, tmp_path):
    """Run a gare command against the head, with its token or another environment."""

    def command(*words, **environment):
        return subprocess.run(
            gare(*words[:1], "--cluster", head.address, *words[1:]), cwd=tmp_path, env=head.environment | environment,
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip

    return command


@pytest.fixture
def config(toy_run, tmp_path):
    """The config file of a run whose places are below this test's folder."""
    path = tmp_path / "configs" / "toy.yaml"
    path.parent.mkdir()
    path.write_text(to_yaml(toy_run("train.epochs=1")))
    return "configs/toy.yaml"


def started(done):
    return json.loads(done.stdout)["jobs"]


def test_a_training_run_goes_from_the_command_to_its_metrics(run, head, config, tmp_path):
    done = run("submit", "--json", "--", "train", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    said = json.loads(done.stdout)
    assert (said["status"], said["exit_code"]) == ("SUCCEEDED", 0)
    assert said["result"]["best_metrics"]["dev/t2v/R@1"] >= 0
    assert "epoch 1: dev" in done.stderr
    assert "configs/toy.yaml" in done.stderr
    assert Path(said["result"]["best"]).is_relative_to(tmp_path)
    assert head.token not in done.stdout + done.stderr
    kept = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert kept
    assert not any(head.token.encode() in content for content in kept)
    listed = run("jobs", "--json")
    assert started(listed)[0]["command"] == f"gare train {config}"
    assert head.token not in listed.stdout + listed.stderr


def test_a_job_that_fails_gives_its_exit_code_and_its_last_error_line(run, config, tmp_path):
    (tmp_path / "there").mkdir()
    done = run("submit", "--root", str(tmp_path / "there"), "--", "train", config, "--shards", "none")
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: The job gare-train-")
    assert "ended with exit code 3: There is no folder" in last
    assert "there/none" in last


def test_without_the_clusters_token_nothing_is_started(run, head, config, tmp_path):
    before = len(started(run("jobs", "--json")))
    (tmp_path / "wrong").write_text("0" * 64)
    for token, says in (("none", "there is none here"), ("wrong", "refuses the token of")):
        path = str(tmp_path / token)
        done = run("submit", "--", "config", config, RAY_AUTH_TOKEN_PATH=path, HOME=str(tmp_path))
        assert done.returncode == 4
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
        assert "0" * 64 not in done.stderr
    assert (tmp_path / "wrong").stat().st_mode & 0o777 == 0o600
    assert len(started(run("jobs", "--json"))) == before


def test_ctrl_c_leaves_the_job_at_work_and_says_how_to_follow_it(run, head, config, tmp_path):
    command = gare("submit", "--cluster", head.address, "--", "config", config)
    submitting = subprocess.Popen(command, cwd=tmp_path, env=head.environment, stderr=subprocess.PIPE, text=True)
    said = ""
    while "Submitted the job" not in said:
        line = submitting.stderr.readline()
        assert line, said
        said += line
    submitting.send_signal(signal.SIGINT)
    said += submitting.communicate(timeout=30)[1]
    assert submitting.returncode == 130
    assert "Traceback" not in said
    name = said.partition("Submitted the job ")[2].split()[0]
    assert f"keeps running. Follow it with gare logs {name} --follow, stop it with gare stop {name}." in said
    followed = run("logs", name, "--follow")
    assert followed.returncode == 0, followed.stderr
    assert "train:" in followed.stdout
    assert run("logs", name).stdout == followed.stdout


def test_a_job_is_started_without_waiting_and_stopped(run, config):
    done = run("submit", "--no-wait", "--json", "--", "train", config, "--set", "train.epochs=1000")
    name = json.loads(done.stdout)["job"]
    assert f"gare stop {name}" in done.stderr
    assert {job["id"]: job["status"] for job in started(run("jobs", "--json"))}[name] in {"PENDING", "RUNNING"}
    stopped = run("stop", name, "--json")
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout)["status"] == "STOPPED"
    assert run("logs", name, "--follow").returncode == 4
    assert "has ended already: stopped" in run("stop", name).stderr
    unknown = run("stop", "nothing")
    assert unknown.returncode == 3
    assert "knows no job nothing; gare jobs lists them" in unknown.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="hiding a folder from a node needs root")
def test_a_path_that_one_node_does_not_see_is_refused_before_anything_starts(run, head, config, toy_shards, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    with head.node(blind=runs):
        done = run("submit", "--", "train", config)
        assert done.returncode == 3, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert f"runtime.output is {runs}, and the node" in last
        assert "has another folder of that name or none" in last
        assert "storage that every node sees" in last
        assert list(runs.iterdir()) == []

"""A real MLflow server, over SQLite and over PostgreSQL, that goes away in the middle of a sweep and comes back."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gare.config.tree import build
from gare.tracking import begin, mlflow_tracker, note_down, sync, syncing

sync_module = sys.modules["gare.tracking.sync"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

POSTGRES = "initdb", "pg_ctl"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """``mlflow server`` on one port, started as often as wanted."""

    def __init__(self, backend, folder):
        self.backend, self.folder, self.port, self.process = backend, folder, free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.backend, "--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        log = (self.folder / "server.log").open("a")
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):  # noqa: S310
                    return
            except OSError:
                time.sleep(0.3)
        pytest.fail(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def postgres_tools():
    for folder in [None, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]:
        found = [shutil.which(tool, path=str(folder) if folder else None) for tool in POSTGRES]
        if all(found) and (folder or not Path(found[0]).is_symlink()):
            return [str(tool) for tool in found]
    return None


@pytest.fixture
def postgres(tmp_path_factory):
    """The address of a database of our own; PostgreSQL refuses to run as root, so it then runs as another user."""
    pytest.importorskip("psycopg")
    tools = postgres_tools()
    if tools is None:
        pytest.skip("no initdb and pg_ctl here")
    initdb, pg_ctl = tools
    user = getpass.getuser()
    as_user = []
    folder = Path(subprocess.check_output(["mktemp", "-d", "-t", "gare-pg-XXXXXX"], text=True).strip())
    if os.geteuid() == 0:
        user = "postgres" if subprocess.run(["id", "postgres"], capture_output=True).returncode == 0 else "nobody"
        shutil.chown(folder, user)
        as_user = ["setpriv", f"--reuid={user}", "--clear-groups", "--no-new-privs"]
    data, port = folder / "data", free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    made = subprocess.run(
        [*as_user, initdb, "-D", str(data), "-A", "trust", "-U", "mlflow", "-E", "UTF8"], capture_output=True, cwd="/"
    )
    if made.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"initdb does not run as {user}: {made.stderr.decode()[-300:]}")
    subprocess.run(
        [*as_user, pg_ctl, "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start"],
        check=True, cwd="/", stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"postgresql://mlflow:not-checked@127.0.0.1:{port}/postgres"
    subprocess.run([*as_user, pg_ctl, "-D", str(data), "-m", "immediate", "-w", "stop"], check=True, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request, tmp_path):
    backend = f"sqlite:///{tmp_path}/m.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = Server(backend, tmp_path)
    made.start()
    yield made
    made.kill()


def rows(first, last):
    return "".join(
        json.dumps({"step": n, "total": 99, "time": 1000.0 + n, "train/loss": 1 / n}) + "\n" for n in range(first, last)
    )


def test_a_sweep_is_recorded_whole_though_the_server_is_killed_in_the_middle(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sync_module, "LONGEST_WAIT", 2.0)
    monkeypatch.setattr(sync_module, "FLUSH_SECONDS", 0.3)
    config = build({"runtime": {"tracking_uri": server.uri, "experiment": "sweeps", "output": str(tmp_path)}})
    sweep = tmp_path / "weights"
    trials = [sweep / f"trial-{n}" for n in range(2)]
    parent = begin(sweep, config, "weights", tags={}, dataset={})
    first = begin(trials[0], config, "trial-0", tags={}, dataset={}, parent=sweep)
    with syncing(trials[0]):
        history = trials[0] / "history.jsonl"
        history.write_text(rows(1, 20))
        time.sleep(2)
        server.kill()
        began = time.monotonic()
        with history.open("a") as stream:
            stream.write(rows(20, 40))
        begin(trials[1], config, "trial-1", tags={}, dataset={"dataset_digest": "abc"}, parent=sweep)
        note_down(trials[1], artifacts={"history.jsonl": trials[1] / "history.jsonl"})
        away = time.monotonic() - began
        (trials[1] / "history.jsonl").write_text(rows(1, 9))
        with syncing(trials[1]):
            pass
        note_down(trials[1], status="FINISHED")
        server.start()
        time.sleep(3)
    for folder in (trials[0], sweep):
        note_down(folder, status="FINISHED")
    assert all(sync(folder) for folder in (sweep, *trials))
    assert away < 60
    client = mlflow_tracker.client(server.uri)
    runs = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("sweeps").experiment_id])
    }
    assert set(runs) == {"weights", "trial-0", "trial-1"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    steps = [entry.step for entry in client.get_metric_history(first, "train/loss")]
    assert steps == list(range(1, 40))
    made = runs["trial-1"]
    assert made.data.tags["mlflow.parentRunId"] == parent
    assert len(client.get_metric_history(made.info.run_id, "train/loss")) == 8
    assert made.inputs.dataset_inputs[0].dataset.digest == "abc"
    assert {file.path for file in client.list_artifacts(made.info.run_id)} == {"config.yaml", "history.jsonl"}
    said = capsys.readouterr().err
    assert said.count("cannot be used now") == 1
    assert "answers" in said


def test_two_commands_that_open_a_new_experiment_of_a_server_at_once_both_get_it(tmp_path):
    server = Server(f"sqlite:///{tmp_path}/m.db", tmp_path)
    server.start()
    runtime = {"tracking_uri": server.uri, "experiment": "new"}
    code = (
        "import sys; from pathlib import Path; from gare.config.tree import build; from gare.tracking import begin; "
        f"print(begin(Path(sys.argv[1]), build({{'runtime': {runtime}}}), 'x', tags={{}}, dataset={{}}))"
    )
    try:
        both = [
            subprocess.Popen([sys.executable, "-c", code, str(tmp_path / f"run{n}")], stdout=subprocess.PIPE)
            for n in range(2)
        ]
        assert len({process.communicate(timeout=120)[0] for process in both}) == 2
        assert [process.returncode for process in both] == [0, 0]
    finally:
        server.kill()

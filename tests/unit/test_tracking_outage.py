"""What happens to records while the tracker is away, and that MLflow's page has each of them once afterwards."""

import hashlib
import json
import subprocess
import sys
import threading
import time

import pytest

from gare.common.errors import RunError
from gare.common.locks import lock_within
from gare.config.tree import build
from gare.tracking import begin, note_down, read_handle, sync, syncing
from gare.tracking import mlflow_tracker as mlflow_module
from gare.tracking.record import read_record, updating
from gare.tracking.system import watching
from gare.tracking.trackers import tracker_at

sync_module = sys.modules["gare.tracking.sync"]


class Net:
    """The way to a real SQLite store, which can be cut, lose an answer, or hang."""

    def __init__(self, client):
        self.client, self.cut, self.lose, self.hang = client, False, "", None

    def __getattr__(self, name):
        if self.hang is not None:
            self.hang.wait(60)
        if self.cut:
            raise ConnectionError("the wire is cut")
        if name != self.lose:
            return getattr(self.client, name)

        def answers_into_the_void(*given, **named):
            getattr(self.client, name)(*given, **named)
            self.lose, self.cut = "", True
            raise ConnectionError("the answer is lost")

        return answers_into_the_void


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/m.db"


@pytest.fixture
def net(uri, tmp_path, monkeypatch):
    made = Net(mlflow_module.client(uri))
    made.uri, made.folder = uri, tmp_path / "run"
    monkeypatch.setattr(mlflow_module, "client", lambda _: made)
    monkeypatch.setattr(sync_module, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(sync_module, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(sync_module, "FLUSH_SECONDS", 0.05)
    sync_module.line_to.cache_clear()
    tracker_at.cache_clear()
    return made


def start(net, folder=None, name="run", **options):
    """Begin a run, in an experiment of the test's own, and give its id."""
    config = build(
        {"runtime": {"output": str(net.folder.parent), "tracking_uri": net.uri, "experiment": str(net.folder)}}
    )
    return begin(folder or net.folder, config, name, **({"tags": {}, "dataset": {}} | options))


def all_runs(net):
    experiment = net.client.get_experiment_by_name(str(net.folder)).experiment_id
    return {run.info.run_name: run for run in net.client.search_runs([experiment])}


def history(net, run_id, name):
    return [(entry.step, entry.value) for entry in net.client.get_metric_history(run_id, name)]


def rows(first, last, at):
    return [{"step": n, "total": 9, "time": at + n, "seconds": 1.0, "train/loss": float(n)} for n in range(first, last)]


def write(path, entries):
    """As a run begins and goes on: a new file in the place of the old one."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    new.replace(path)


def test_what_was_recorded_while_it_was_away_is_there_when_it_answers(net, capsys):
    run = start(net)
    net.cut = True
    note_down(net.folder, metrics={"a": 1.0}, step=1, tags={"t": "first"})
    assert not sync(net.folder)
    note_down(net.folder, metrics={"a": 2.0}, step=2, tags={"t": "second"}, status="KILLED")
    assert not sync(net.folder)
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert "cannot be used now" in said
    ended = read_record(net.folder).ended_ms
    time.sleep(0.01)
    net.cut = False
    assert sync(net.folder)
    assert "answers" in capsys.readouterr().err
    found = net.client.get_run(run)
    assert found.data.tags["t"] == "second"
    assert (found.info.status, found.info.end_time) == ("KILLED", ended)
    assert history(net, run, "a") == [(1, 1.0), (2, 2.0)]


def test_a_folder_that_is_up_to_date_costs_the_tracker_nothing(net):
    start(net)
    note_down(net.folder, status="FINISHED")
    assert sync(net.folder)
    net.cut = True
    assert sync(net.folder)
    (net.folder / "history.jsonl").write_text("{}\n")
    assert not sync(net.folder)


@pytest.mark.parametrize("lost", ["create_run", "log_batch", "log_inputs", "set_terminated", "log_artifact"])
def test_an_answer_that_is_lost_leaves_nothing_twice(net, lost):
    write(net.folder / "history.jsonl", rows(1, 4, 10))
    data = {"dataset_digest": "abc"}
    if lost != "create_run":
        start(net, dataset=data)
        write(net.folder / "history.jsonl", rows(1, 6, 10))
    note_down(net.folder, metrics={"best/a": 1.0}, step=5, status="FINISHED")
    net.lose = lost
    if lost == "create_run":
        with pytest.raises(RunError, match="the answer is lost"):
            start(net, dataset=data)
    elif lost in ("log_inputs", "log_artifact"):
        with updating(net.folder) as record:
            record.sent = {}
        sync(net.folder)
    else:
        assert not sync(net.folder)
    net.cut, net.lose = False, ""
    write(net.folder / "history.jsonl", rows(1, 6, 10))
    note_down(net.folder, metrics={"best/a": 1.0}, step=5, status="FINISHED")
    assert sync(net.folder)
    (run,) = all_runs(net).values()
    assert history(net, run.info.run_id, "train/loss") == [(n, float(n)) for n in range(1, 6)]
    assert history(net, run.info.run_id, "best/a") == [(5, 1.0)]
    assert len(run.inputs.dataset_inputs) == 1
    assert run.info.status == "FINISHED"


def test_a_process_killed_before_it_wrote_the_runs_id_down_leaves_no_second_run(net):
    run = start(net)
    with updating(net.folder) as record:
        record.run_id = record.synced = None
    assert start(net) == run
    assert len(all_runs(net)) == 1


def test_a_child_begun_while_it_is_away_is_one_run_afterwards_below_its_parent(net):
    parent, folder = start(net, name="parent"), net.folder / "trial-000"
    net.cut = True
    for _ in range(2):
        assert start(net, folder, "child", parent=net.folder) is None
    write(folder / "history.jsonl", rows(1, 4, 10))
    with syncing(folder):
        pass
    note_down(folder, status="FINISHED")
    net.cut = False
    assert sync(folder)
    runs = all_runs(net)
    assert set(runs) == {"parent", "child"}
    assert runs["child"].data.tags["mlflow.parentRunId"] == parent
    assert runs["child"].info.status == "FINISHED"
    assert history(net, runs["child"].info.run_id, "train/loss") == [(n, float(n)) for n in range(1, 4)]


def test_a_new_run_is_told_at_once_and_one_under_way_goes_on(net):
    net.cut = True
    with pytest.raises(RunError, match="wire is cut"):
        start(net)
    net.cut = False
    run = start(net)
    net.cut = True
    assert start(net) == run


def test_what_is_refused_for_good_does_not_hold_up_the_rest_and_is_said_once(net, capsys):
    run = start(net)
    place = net.client.get_run(run).info.artifact_uri.removeprefix("file://")
    (net.folder / "notes.txt").write_text("x")
    subprocess.run(["rm", "-r", place], check=True)
    with open(place, "w"):  # a file where the artifacts' folder should be
        artifacts = {"gone.txt": net.folder / "gone.txt", "notes.txt": net.folder / "notes.txt"}
        note_down(net.folder, artifacts=artifacts, tags={"yes": "1"}, status="FINISHED")
    assert sync(net.folder)
    assert sync(net.folder)
    found = net.client.get_run(run)
    assert (found.data.tags["yes"], found.info.status) == ("1", "FINISHED")
    assert capsys.readouterr().err.count("did not record something") == 1


def test_steps_that_a_resumed_run_repeats_are_recorded_once(net):
    run, path = start(net), net.folder / "history.jsonl"
    for entries in (rows(1, 6, 1000), rows(1, 4, 1000) + rows(4, 9, 2000)):
        write(path, entries)
        with syncing(net.folder):
            pass
    assert history(net, run, "train/loss") == [(n, float(n)) for n in range(1, 9)]
    assert history(net, run, "progress/seconds") == [(n, 1.0) for n in range(1, 9)]


def test_rows_arrive_while_the_run_goes_on_with_the_time_they_were_written(net):
    run, path = start(net), net.folder / "history.jsonl"
    with syncing(net.folder):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(1, 4, 5)) + '{"step": 4, "half a')
        time.sleep(1.0)
        entries = net.client.get_metric_history(run, "train/loss")
        assert [entry.timestamp for entry in entries] == [6000, 7000, 8000]


def test_many_rows_of_a_run_that_ended_while_it_was_away_come_with_the_next_command(net):
    run = start(net)
    write(net.folder / "history.jsonl", [*rows(1, 1201, 10), {"step": 1200, "time": 16, "warning": "collapsed"}])
    net.cut = True
    with syncing(net.folder):
        pass
    note_down(net.folder, status="FINISHED")
    net.cut = False
    assert sync(net.folder)
    assert history(net, run, "train/loss") == [(n, float(n)) for n in range(1, 1201)]
    assert net.client.get_run(run).data.tags["gare.warning"] == "collapsed"
    assert net.client.get_run(run).info.status == "FINISHED"


def test_a_tracker_that_hangs_holds_nothing_up(net, monkeypatch):
    start(net)
    monkeypatch.setattr(sync_module, "JOIN_SECONDS", 0.2)
    monkeypatch.setattr(sync_module, "LOCK_SECONDS", 0.1)
    net.hang = threading.Event()
    began = time.monotonic()
    with syncing(net.folder):
        write(net.folder / "history.jsonl", rows(1, 4, 10))
        note_down(net.folder, tags={"device": "cpu"})
        time.sleep(0.2)
    note_down(net.folder, status="FINISHED")
    assert not sync(net.folder)
    assert time.monotonic() - began < 10
    net.hang.set()
    net.hang = None
    deadline = time.monotonic() + 30
    while not sync(net.folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = net.client.get_run(read_handle(net.folder).run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["train/loss"] == 3.0


def test_the_machine_is_sampled_under_the_names_of_mlflows_own_page(net):
    run = start(net)
    with watching(net.folder, 0, 0.05), watching(net.folder, 1, 0.05), syncing(net.folder):
        time.sleep(1.0)
    metrics = net.client.get_run(run).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 100
    assert "system/node-1/cpu_utilization_percentage" in metrics
    with watching(net.folder, 2, None):
        pass
    assert not (net.folder / "system-2.jsonl").exists()


def test_what_a_former_version_left_waiting_is_sent_and_its_run_goes_on(net):
    run, token = start(net), "f" * 32
    (net.folder / "tracking.json").unlink()
    handle = {"uri": net.uri, "experiment": str(net.folder), "run_id": run}
    (net.folder / "mlflow.json").write_text(json.dumps(handle))
    notes = net.folder / "notes.txt"
    notes.write_text("x")
    source = json.dumps({"uri": "/shards"})
    dataset = {"name": "clips", "digest": "abc", "source_type": "local", "source": source}
    operations = [
        {"op": "tags", "run": run, "tags": {"t": "first"}},
        {"op": "metrics", "run": run, "points": [["best/a", 1.0, 5, 1]]},
        {"op": "start", "name": "child", "tags": {"mlflow.parentRunId": run}, "begun_ms": 7, "token": token},
        {"op": "params", "run": f"offline-{token}", "params": {"train.epochs": "3"}},
        {"op": "datasets", "run": f"offline-{token}", "datasets": [dataset]},
        {"op": "text", "run": f"offline-{token}", "text": "a: 1", "file": "config.yaml"},
        {"op": "artifact", "run": f"offline-{token}", "path": str(notes), "folder": "more"},
        {"op": "tags", "run": "0" * 32, "tags": {"no": "such run"}},
        {"op": "history", "run": run, "path": str(net.folder)},
        {"op": "status", "run": f"offline-{token}", "status": "KILLED", "ended_ms": 9},
    ]
    spool = net.folder / f"mlflow-spool-{hashlib.sha256(net.uri.encode()).hexdigest()[:8]}.jsonl"
    spool.write_text("".join(json.dumps(each) + "\n" for each in operations) + '{"op": "half a li')
    write(net.folder / "history.jsonl", rows(1, 4, 10))
    net.cut = True
    assert not sync(net.folder)
    assert spool.is_file()
    net.cut = False
    assert sync(net.folder)
    assert not spool.exists()
    runs = all_runs(net)
    assert set(runs) == {"run", "child"}
    assert runs["run"].data.tags["t"] == "first"
    assert history(net, run, "train/loss") == [(n, float(n)) for n in range(1, 4)]
    assert history(net, run, "best/a") == [(1, 1.0)]
    child = runs["child"]
    assert child.data.tags["mlflow.parentRunId"] == run
    assert child.data.params == {"train.epochs": "3"}
    assert child.inputs.dataset_inputs[0].dataset.source == source
    assert (child.info.status, child.info.start_time, child.info.end_time) == ("KILLED", 7, 9)
    assert {file.path for file in net.client.list_artifacts(child.info.run_id)} == {"config.yaml", "more"}
    # The child goes on under the id that the former version gave it.
    trial = net.folder / "trial-000"
    assert start(net, trial, "child", parent=net.folder, former=f"offline-{token}") == child.info.run_id
    assert start(net) == run
    assert not (net.folder / "mlflow.json").exists()


def test_a_finished_run_of_a_former_version_keeps_its_tags_and_its_end(net):
    run = start(net, tags={"gare.git_commit": "former"})
    note_down(net.folder, status="FINISHED")
    sync(net.folder)
    ended = net.client.get_run(run).info.end_time
    (net.folder / "tracking.json").unlink()
    time.sleep(0.01)
    assert start(net, former=run, ended="FINISHED", tags={"gare.git_commit": "now"}) == run
    note_down(net.folder, metrics={"best/a": 1.0}, status="FINISHED")
    assert sync(net.folder)
    found = net.client.get_run(run)
    assert (found.info.status, found.info.end_time) == ("FINISHED", ended)
    assert found.data.tags["gare.git_commit"] == "former"
    assert found.data.metrics["best/a"] == 1.0


def test_a_run_that_another_process_is_sending_is_named(net, monkeypatch, capsys):
    start(net)
    note_down(net.folder, metrics={"a": 1.0}, step=1)
    monkeypatch.setattr(sync_module, "LOCK_SECONDS", 0.0)
    with lock_within(net.folder / ".sync.lock", 0.0):
        assert not sync(net.folder)
    assert f"Another process is sending {net.folder} to its tracker" in capsys.readouterr().err.replace("\n", " ")
    assert sync(net.folder)


def test_processes_that_open_a_new_database_at_once_all_get_it(tmp_path):
    code = f"""
from pathlib import Path
import sys
from gare.config.tree import build
from gare.tracking import begin
config = build({{"runtime": {{"output": "{tmp_path}"}}}})
print(begin(Path("{tmp_path}") / sys.argv[1], config, "run", tags={{}}, dataset={{}}))
"""
    several = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        for n in range(2)
    ]
    said = [process.communicate(timeout=120) for process in several]
    assert [process.returncode for process in several] == [0, 0], said
    assert len({out for out, _ in said}) == 2
    assert "warning" not in "".join(err for _, err in said)


def test_a_proxys_404_is_silence_and_no_lost_run(net):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def get_run(_):
        raise MlflowException("<html>404</html>", error_code=ENDPOINT_NOT_FOUND)

    first = start(net)
    net.get_run = get_run
    assert start(net) == first
    assert read_record(net.folder).run_id == first
    del net.get_run
    assert sync(net.folder)
    assert list(all_runs(net)) == ["run"]

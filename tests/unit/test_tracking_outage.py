"""What happens to records while the tracker is away, and that MLflow's page has each of them once afterwards."""

import json
import subprocess
import sys

import pytest

from gare.common.errors import RunError
from gare.tracking import Tracker, feeding
from gare.tracking import feed as feed_module
from gare.tracking import outbox as outbox_module
from gare.tracking import store as store_module
from gare.tracking.system import watching


class Net:
    """The way to a real SQLite store, which can be cut."""

    def __init__(self, client):
        self.client, self.cut, self.calls = client, False, 0

    def __getattr__(self, name):
        self.calls += 1
        if self.cut:
            raise ConnectionError("the wire is cut")
        return getattr(self.client, name)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/m.db"


@pytest.fixture
def net(uri, tmp_path, monkeypatch):
    made = Net(store_module.client(uri))
    made.uri, made.folder = uri, tmp_path / "run"
    made.folder.mkdir()
    monkeypatch.setattr(store_module, "client", lambda _: made)
    monkeypatch.setattr(store_module, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(store_module, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(feed_module, "FLUSH_SECONDS", 0.05)
    outbox_module._warned.clear()
    return made


def tracker_of(net, **options):
    return Tracker(net.uri, str(net.folder), net.folder.parent / "artifacts", spool=net.folder, **options)


def history(net, run_id, name):
    return [(entry.step, entry.value) for entry in net.client.get_metric_history(run_id, name)]


def test_what_was_recorded_while_it_was_away_is_there_in_order_when_it_answers(net, capsys):
    tracker = tracker_of(net)
    run = tracker.start("run")
    net.cut = True
    tracker.metrics(run, {"a": 1.0}, 1)
    tracker.tag(run, {"t": "first"})
    tracker.tag(run, {"t": "second"})
    tracker.finish(run, "KILLED")
    assert capsys.readouterr().err.count("warning") == 1
    assert len(next(net.folder.glob("mlflow-spool-*.jsonl")).read_text().splitlines()) == 4
    net.cut = False
    tracker.metrics(run, {"a": 2.0}, 2)
    found = net.client.get_run(run)
    assert found.data.tags["t"] == "second"
    assert found.info.status == "KILLED"
    assert history(net, run, "a") == [(1, 1.0), (2, 2.0)]
    assert not list(net.folder.glob("mlflow-spool-*.jsonl"))


def test_a_replay_that_was_cut_short_and_sent_again_changes_nothing(net):
    tracker = tracker_of(net)
    run = tracker.start("run")
    net.cut = True
    tracker.metrics(run, {"a": 1.0, "b": 2.0}, 1)
    tracker.dataset(run, {"dataset_digest": "abc"})
    spool = next(net.folder.glob("mlflow-spool-*.jsonl"))
    text = spool.read_text()
    net.cut = False
    for _ in range(2):
        spool.write_text(text + '{"op": "half a li')
        assert tracker.replay()
    assert history(net, run, "a") == [(1, 1.0)]
    assert len(net.client.get_run(run).inputs.dataset_inputs) == 1


def test_a_run_started_while_it_is_away_is_one_run_afterwards(net):
    tracker = tracker_of(net)
    parent = tracker.start("parent", key="parent")
    net.cut = True
    child = tracker.start("child", parent_run_id=parent, key="child")
    assert tracker.start("child", parent_run_id=parent, key="child") == child
    tracker.metrics(child, {"a": 1.0}, 1)
    net.cut = False
    assert tracker_of(net, under_way=True).replay()
    runs = net.client.search_runs([net.client.get_experiment_by_name(str(net.folder)).experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["child", "parent"]
    made = next(run for run in runs if run.info.run_name == "child")
    assert made.data.tags["mlflow.parentRunId"] == parent
    assert made.data.metrics == {"a": 1.0}
    tracker.tag(child, {"later": "by its first id"})
    assert net.client.get_run(made.info.run_id).data.tags["later"]


def test_a_second_start_with_the_same_key_finds_the_run_of_the_first(net):
    tracker = tracker_of(net)
    assert tracker.start("a", key="k") == tracker.start("a", key="k") != tracker.start("a")


def test_a_new_run_is_told_at_once_and_one_under_way_goes_on(net):
    net.cut = True
    with pytest.raises(RunError, match="wire is cut"):
        tracker_of(net)
    tracker = tracker_of(net, under_way=True)
    tracker.resume("0" * 32)


def test_an_answer_that_would_not_change_does_not_hold_up_the_rest(net):
    tracker = tracker_of(net)
    run = tracker.start("run")
    tracker.tag("0" * 32, {"no": "such run"})
    tracker.artifact(run, net.folder / "gone.txt")
    tracker.tag(run, {"yes": "1"})
    assert net.client.get_run(run).data.tags["yes"] == "1"
    assert not list(net.folder.glob("mlflow-spool-*.jsonl"))


def rows(first, last, at):
    return [{"step": n, "total": 9, "time": at + n, "seconds": 1.0, "train/loss": float(n)} for n in range(first, last)]


def write(path, entries):
    """As a run begins and goes on: a new file in the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    new.replace(path)


def test_steps_that_a_resumed_run_repeats_are_recorded_once(net):
    tracker = tracker_of(net)
    run, path = tracker.start("run"), net.folder / "history.jsonl"
    for entries in (rows(1, 6, 1000), rows(1, 4, 1000) + rows(4, 9, 2000)):
        write(path, entries)
        with feeding(tracker.handle(run), net.folder):
            pass
    assert history(net, run, "train/loss") == [(n, float(n)) for n in range(1, 9)]
    assert history(net, run, "progress/seconds") == [(n, 1.0) for n in range(1, 9)]


def test_rows_arrive_while_the_run_goes_on_with_the_time_they_were_written(net):
    tracker = tracker_of(net)
    run, path = tracker.start("run"), net.folder / "history.jsonl"
    with feeding(tracker.handle(run), net.folder) as feed:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(1, 4, 5)) + '{"step": 4, "half a')
        feed._stop.wait(1.0)
        entries = net.client.get_metric_history(run, "train/loss")
        assert [entry.timestamp for entry in entries] == [6000, 7000, 8000]


def test_rows_of_a_run_that_ended_while_it_was_away_come_with_the_next_command(net):
    tracker = tracker_of(net)
    run = tracker.start("run")
    write(net.folder / "history.jsonl", [*rows(1, 6, 10), {"step": 5, "time": 16, "warning": "collapsed"}])
    net.cut = True
    with feeding(tracker.handle(run), net.folder):
        pass
    tracker.finish(run)
    net.cut = False
    assert tracker_of(net, under_way=True).replay()
    assert history(net, run, "train/loss") == [(n, float(n)) for n in range(1, 6)]
    assert net.client.get_run(run).data.tags["gare.warning"] == "collapsed"
    assert net.client.get_run(run).info.status == "FINISHED"


def test_the_machine_is_sampled_under_the_names_of_mlflows_own_page(net):
    tracker = tracker_of(net)
    run = tracker.start("run")
    with watching(net.folder, 0, 0.05), watching(net.folder, 1, 0.05), feeding(tracker.handle(run), net.folder) as feed:
        feed._stop.wait(1.0)
    metrics = net.client.get_run(run).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 100
    assert "system/node-1/cpu_utilization_percentage" in metrics
    with watching(net.folder, 2, None):
        pass
    assert not (net.folder / "system-2.jsonl").exists()


def test_processes_that_open_a_new_database_at_once_all_get_it(tmp_path):
    code = f"""
from gare.tracking import Tracker
tracker = Tracker("sqlite:///{tmp_path}/new.db", "e")
tracker.metrics(tracker.start("run"), {{"a": 1.0}}, 1)
"""
    several = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0], errors
    assert "warning" not in "".join(errors)

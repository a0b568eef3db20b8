import json
import math
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from gare.common.errors import InputError, RunError
from gare.config import Config, RuntimeConfig
from gare.config.tree import build, flatten
from gare.evaluation.metrics.ranking import METRIC_NAMES
from gare.objective.loss import TERM_NAMES
from gare.tracking import begin, markdown_table, metric_name, note_down, read_handle, resolve_uri, sync, syncing
from gare.tracking.mlflow_tracker import client
from gare.tracking.names import parameter, tag_value
from gare.tracking.tracker import Found
from gare.tracking.trackers import TRACKERS, tracker_at
from tests.failing import ERRORS, failing_reads
from tests.page import HOSTILE, SHOWN

LOGGED = [
    *(f"{stage}/{name}" for stage in ("dev", "best/dev", "test") for name in METRIC_NAMES),
    *(f"train/{name}" for name in (*TERM_NAMES, "grad_norm", "logit_scale", "lr_clip", "lr_new", "samples_per_second")),
    *("epoch", "seconds"),
]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(output, tmp_path, monkeypatch):
    """Begin a run in the module's store, in a folder of its own, and give the folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def start(name="run", **options):
        folder = output / tmp_path.name / name
        return started(folder, settings(output, **options.pop("runtime", {})), name, **options)

    return start


def settings(output, **runtime):
    return build({"train": {"epochs": 3}, "runtime": {"output": str(output), "experiment": "unit"} | runtime})


def started(folder, config, name="run", **options):
    begin(folder, config, name, **({"tags": {}, "dataset": {}} | options))
    return folder


def read(folder):
    handle = read_handle(folder)
    return client(handle.uri).get_run(handle.run_id)


def artifact(folder, name):
    place = read(folder).info.artifact_uri
    assert place.startswith("file:///")
    with open(unquote(f"{place.removeprefix('file://')}/{name}")) as stream:
        return stream.read()


def test_every_name_we_log_is_accepted_and_stays_apart(run):
    folder = run()
    note_down(folder, metrics=dict.fromkeys(LOGGED, 1.0), step=1)
    assert sync(folder)
    assert set(read(folder).data.metrics) == {metric_name(name) for name in LOGGED}
    assert len({metric_name(name) for name in LOGGED}) == len(LOGGED)


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a/", "../a", "a/./b", "x" * 251])
def test_a_name_that_mlflow_would_mangle_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a metric"):
        metric_name(name)


def test_illegal_characters_are_mapped_each_to_its_own():
    assert metric_name("dev/t2v/R@1") == "dev/t2v/R_at_1"
    assert len({metric_name(f"a{character}b") for character in "@#%&()é\n"}) == 8


def test_importing_the_tracker_loads_no_mlflow_and_no_torch():
    code = "import gare.tracking, sys; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_setting_wins_over_the_environment_over_a_file_in_the_output(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    output = str(tmp_path / "runs")
    assert resolve_uri(RuntimeConfig(output=output)) == f"sqlite:///{output}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert resolve_uri(RuntimeConfig(output=output)) == "http://localhost:5000"
    assert resolve_uri(RuntimeConfig(output=output, tracking_uri="http://other:1")) == "http://other:1"


def test_a_relative_sqlite_file_is_made_absolute_for_workers_in_other_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(RuntimeConfig(tracking_uri="sqlite:///store/m.db")) == f"sqlite:///{tmp_path}/store/m.db"
    assert (tmp_path / "store").is_dir()


def test_databases_of_folders_with_odd_names_stay_apart_and_are_found_again(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("e?f", "c%20d"):
        folder = started(tmp_path / name / "run", settings(tmp_path / name))
        assert (tmp_path / name / "mlflow.db").is_file()
        assert artifact(folder, "config.yaml")
    files = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"e?f", "c%20d"}


def test_a_host_without_http_is_one_sentence(monkeypatch):
    with pytest.raises(InputError, match=r"runtime.tracking_uri is localhost:5000; add http://"):
        resolve_uri(RuntimeConfig(tracking_uri="localhost:5000"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlflow.example:80/base")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI is mlflow.example:80/base; add http://"):
        resolve_uri(RuntimeConfig())


@pytest.fixture(params=[(401, "who are you?"), (403, '{"error_code": "PERMISSION_DENIED", "message": "not you"}')])
def denying_server(request):
    """An MLflow server that answers every request with 401 in plain text, or 403 in MLflow's own form."""
    code, body = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:wrong@127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_refuses_access_ends_a_start_and_names_what_to_check(denying_server, tmp_path):
    with pytest.raises(RunError, match=r"It refuses access: check MLFLOW_TRACKING_USERNAME") as caught:
        started(tmp_path, settings(tmp_path, tracking_uri=denying_server))
    assert "wrong" not in str(caught.value)


def test_a_server_that_refuses_access_in_a_run_is_not_called_away(denying_server, tmp_path, capsys):
    known = {"uri": denying_server, "experiment": "unit", "run_id": "0" * 32}
    (tmp_path / "mlflow.json").write_text(json.dumps(known))
    started(tmp_path, settings(tmp_path, tracking_uri=denying_server))
    note_down(tmp_path, metrics={"loss": 1.0}, step=1)
    assert not sync(tmp_path)
    said = capsys.readouterr().err
    assert said.count("refuses access, check MLFLOW_TRACKING_USERNAME") == 1
    assert "cannot be used now" not in said


def test_a_run_holds_its_settings_environment_data_and_files(run, tmp_path):
    parent = run("parent")
    sets = {"shards": "s3://me:secret@bucket/x"}
    data = {"dataset_digest": "0123456789abcdef" * 3, "source": "http://me:secret@x/shards", "name": "clips"}
    folder = run("parent/child", tags={"kind": "trial"}, parent=parent, dataset=data, runtime=sets)
    (tmp_path / "notes.txt").write_text("x")
    note_down(folder, artifacts={"notes.txt": tmp_path / "notes.txt"}, status="FINISHED")
    assert sync(folder)
    found = read(folder)
    assert set(found.data.params) == set(flatten(Config()))
    assert found.data.params["train.epochs"] == "3"
    assert found.data.tags["mlflow.parentRunId"] == read(parent).info.run_id
    assert found.data.tags["dataset_digest"] == data["dataset_digest"]
    assert {"gare.version", "gare.config_digest", "python", "version.torch", "kind"} <= set(found.data.tags)
    assert found.inputs.dataset_inputs[0].dataset.name == "clips"
    assert found.info.status == "FINISHED"
    assert artifact(folder, "notes.txt") == "x"
    text = artifact(folder, "config.yaml")
    assert "epochs: 3" in text
    assert "secret" not in text + str(found.to_dictionary())


def test_a_long_setting_is_cut_to_what_mlflow_keeps(output, tmp_path):
    config = build(
        {"sweep": {"space": {"train.seed": {"grid": list(range(9000))}}}, "runtime": {"output": str(output)}}
    )
    folder = started(output / tmp_path.name, config)
    assert len(read(folder).data.params["sweep.space"]) == 6000


def test_a_description_is_a_table_that_no_value_breaks(run):
    folder = run(description=markdown_table(["setting", "value"], [("a", 1e-4), ("b", "x|y")]))
    said = "| setting | value |\n| --- | --- |\n| a | 0.0001 |\n| b | x\\|y |"
    assert read(folder).data.tags["mlflow.note.content"] == said


def test_a_value_that_is_not_finite_shows_as_nan(run):
    folder = run()
    note_down(folder, metrics={"loss": math.inf, "norm": math.nan}, step=1)
    assert sync(folder)
    values = read(folder).data.metrics
    assert set(values) == {"loss", "norm"}
    assert all(math.isnan(value) for value in values.values())


def test_an_interrupted_run_is_taken_up_again_and_one_that_was_deleted_is_begun_anew(run, capsys):
    folder = run()
    first = read_handle(folder)
    note_down(folder, status="KILLED")
    assert sync(folder)
    assert read(folder).info.status == "KILLED"
    assert read_handle(run()) == first
    assert read(folder).info.status == "RUNNING"
    client(first.uri).delete_run(first.run_id)
    for _ in range(2):
        note_down(folder, tags={"t": "lost"})
        sync(folder)
    assert capsys.readouterr().err.count(f"the run {first.run_id} is deleted") == 1
    assert read_handle(run()).run_id != first.run_id
    assert read(folder).data.tags["t"] == "lost"


def test_a_finished_run_is_recorded_whole_in_an_experiment_named_later(run):
    first = read_handle(run(tags={"gare.kind": "run"}))
    folder = run(runtime={"experiment": "named later"}, tags={"gare.kind": "run"}, ended="FINISHED")
    second = read_handle(folder)
    assert second.run_id not in (None, first.run_id)
    found = read(folder)
    assert (found.info.status, found.data.tags["gare.kind"]) == ("FINISHED", "run")
    assert found.data.params["train.epochs"] == "3"


def test_a_deleted_experiment_ends_a_start_and_a_store_that_cannot_be_used_hides_its_password(run, tmp_path):
    handle = read_handle(run(runtime={"experiment": "old"}))
    store = client(handle.uri)
    store.delete_experiment(store.get_experiment_by_name("old").experiment_id)
    tracker_at.cache_clear()  # as another process
    with pytest.raises(RunError, match=r"the experiment 'old' is deleted; restore it or set runtime\.experiment"):
        run("other", runtime={"experiment": "old"})
    with pytest.raises(RunError, match="Cannot use the tracker") as caught:
        started(tmp_path, settings(tmp_path, tracking_uri=f"file://me:secret@{tmp_path}"))
    assert "secret" not in str(caught.value)


def test_a_damaged_record_costs_the_record_alone(run, capsys):
    folder = run()
    for damage in ("", "{", "[]", '{"uri": 5}', '{"uri": "sqlite:", "experiment": "e"}', '{"tags": [1]}', "\xff"):
        (folder / "tracking.json").write_text(damage)
        note_down(folder, tags={"a": "b"})
        assert read_handle(folder) is None
        assert sync(folder)
    assert "is damaged" in capsys.readouterr().err


def test_a_record_that_cannot_be_read_now_is_not_replaced(run, capsys, monkeypatch):
    folder = run()
    first = (folder / "tracking.json").read_bytes()
    with monkeypatch.context() as patch:
        failing_reads(patch, 0, ERRORS["EIO"], below=folder)
        with pytest.raises(InputError, match=r"Cannot read .*tracking\.json.*Input/output error"):
            run()
        note_down(folder, tags={"a": "b"})
        assert not sync(folder)
    assert (folder / "tracking.json").read_bytes() == first
    assert "Input/output error" in capsys.readouterr().err


class Lines:
    """A tracker of JSON lines, a file per experiment: all that another tracker takes."""

    def __init__(self, uri, experiment):
        self.folder = Path(uri.removeprefix("lines:"))
        self.path = self.folder / f"{experiment}.jsonl"

    def _lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []

    def _add(self, **values):
        with self.path.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    def find(self, record, parent):
        begun = [line["run"] for line in self._lines() if line.get("name") is not None]
        if record.token not in begun:
            self._add(run=record.token, name=record.name, parent=parent)
        points = [line for line in self._lines() if line["run"] == record.token and "metric" in line]
        return Found(record.token, {line["metric"]: (line["step"], line["at"], line["value"]) for line in points})

    def log(self, run_id, changes):
        for name, value, at, step in changes.points:
            self._add(run=run_id, metric=name, value=value, at=at, step=step)
        if changes.status is not None:
            self._add(run=run_id, status=changes.status)

    def copy(self, run_id, path, to):
        target = self.folder / run_id / to
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def test_another_tracker_is_a_class_and_a_row(tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "lines", Lines)
    config = settings(tmp_path, tracking_uri=f"lines:{tmp_path}")
    parent = started(tmp_path / "sweep", config, "sweep")
    child = started(tmp_path / "sweep" / "trial", config, "trial", parent=parent)
    rows = [{"step": n, "time": n, "seconds": 1.0, "train/loss": n / 2} for n in range(1, 4)]
    (child / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with syncing(child) as wanted:
        assert wanted
    note_down(child, metrics={"best/dev": 5.0}, step=3, status="FINISHED")
    for _ in range(2):
        assert sync(child)
    lines = [json.loads(line) for line in (tmp_path / "unit.jsonl").read_text().splitlines()]
    first, second = [line for line in lines if "name" in line]
    assert second["parent"] == first["run"]
    points = [(line["metric"], line["value"], line["step"]) for line in lines if "metric" in line]
    losses = [(name, n, n) for n in (1, 2, 3) for name in ("progress/seconds", "train/loss")]
    assert sorted(points) == sorted(
        [("best/dev", 5.0, 3)] + [(name, 1.0 if name != "train/loss" else n / 2, n) for name, _, n in losses]
    )
    assert lines[-1]["status"] == "FINISHED"
    assert (tmp_path / second["run"] / "config.yaml").is_file()


def test_mlflow_takes_any_text_and_keeps_what_it_can(output, tmp_path):
    config = build(
        {"sweep": {"cases": {HOSTILE[:20] * 900: {}}}, "runtime": {"output": str(output), "experiment": "unit"}}
    )
    folder = started(
        output / tmp_path.name,
        config,
        tags={"gare.why": HOSTILE * 200},
        dataset={"dataset_digest": "d" * 40, "source": '/a "quoted"\\folder'},
        description=markdown_table(["setting"], [[HOSTILE + "\n| b"]]),
    )
    run = read(folder)
    assert run.data.tags["gare.why"].startswith(SHOWN[:40])
    assert len(run.data.tags["gare.why"]) == 8000
    assert len(run.data.params["sweep.cases"]) == 6000
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source) == {"uri": '/a "quoted"\\folder'}
    described = run.data.tags["mlflow.note.content"]
    assert "<" not in described
    assert described.count("\n") == 2


def test_what_mlflow_is_given_has_no_character_that_a_database_refuses():
    assert parameter("a\0b\ud800") == tag_value("a\0b\ud800") == r"a\x00b\ud800"


def test_a_history_row_that_no_tracker_takes_costs_itself_alone(run):
    folder = run()
    rows = [{"step": 1, "time": 1, "train/a//b": 1.0}, {"step": 2, "time": 2, "train/loss": 10**400}]
    rows.append({"step": 3, "time": 3, "train/loss": 0.5})
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sync(folder)
    assert read(folder).data.metrics["train/loss"] == 0.5

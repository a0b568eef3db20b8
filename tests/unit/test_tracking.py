import json
import math
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gare.common.errors import InputError, RunError
from gare.config import Config, RuntimeConfig
from gare.config.tree import build, flatten
from gare.objective.total import TERM_NAMES
from gare.retrieval.metrics.ranking import METRIC_NAMES
from gare.tracking import RunHandle, Tracker, log_report, markdown_table, metric_name, resolve_uri
from gare.tracking.names import parameter, tag_value
from tests.page import HOSTILE, SHOWN

LOGGED = [
    *(f"{stage}/{name}" for stage in ("dev", "best/dev", "test") for name in METRIC_NAMES),
    *(f"train/{name}" for name in (*TERM_NAMES, "grad_norm", "logit_scale", "lr_clip", "lr_new", "samples_per_second")),
    *("epoch", "seconds"),
]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return RuntimeConfig(output=str(tmp_path_factory.mktemp("runs")), experiment="unit")


@pytest.fixture(scope="module")
def tracker(runtime):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Tracker.open(runtime)


def read(tracker, run_id):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=tracker.uri).get_run(run_id)


def test_every_name_we_log_is_accepted_and_stays_apart(tracker):
    run = tracker.start("names")
    tracker.metrics(run, dict.fromkeys(LOGGED, 1.0), step=1)
    assert set(read(tracker, run).data.metrics) == {metric_name(name) for name in LOGGED}
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


def test_databases_of_folders_with_odd_names_stay_apart(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("e?f", "c%20d"):
        runtime = RuntimeConfig(output=str(tmp_path / name))
        Tracker.open(runtime).start("run")
        assert (tmp_path / name / "mlflow.db").is_file()
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
        Tracker(denying_server, "e", spool=tmp_path)
    assert "wrong" not in str(caught.value)


def test_a_server_that_refuses_access_in_a_run_is_not_called_away(denying_server, tmp_path, capsys):
    tracker = Tracker(denying_server, "e", spool=tmp_path, under_way=True)
    tracker.metrics(tracker.start("run"), {"loss": 1.0}, 1)
    said = capsys.readouterr().err
    assert said.count("refuses access, check MLFLOW_TRACKING_USERNAME") == 1
    assert "cannot be used now" not in said
    assert list(tmp_path.glob("*.jsonl"))


def test_a_run_holds_its_settings_environment_data_and_files(tracker, tmp_path):
    config = build({"train": {"epochs": 3}, "runtime": {"tracking_uri": "postgresql://me:secret@db/x"}})
    parent = tracker.start("parent")
    run = tracker.start("child", config=config, tags={"kind": "trial"}, parent_run_id=parent)
    tracker.dataset(run, {"dataset_digest": "0123456789abcdef"})
    (tmp_path / "notes.txt").write_text("x")
    tracker.artifact(run, tmp_path / "notes.txt")
    tracker.finish(run)
    found = read(tracker, run)
    assert set(found.data.params) == set(flatten(Config()))
    assert found.data.params["train.epochs"] == "3"
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert found.data.tags["gare.config_digest"] == config.digest()
    assert found.data.tags["dataset_digest"] == "0123456789abcdef"
    assert {"gare.version", "python", "platform", "version.torch", "version.ray", "kind"} <= set(found.data.tags)
    assert found.info.status == "FINISHED"
    folder = found.info.artifact_uri.removeprefix("file://")
    assert folder.startswith("/")
    with open(f"{folder}/config.yaml") as stream:
        text = stream.read()
    assert "epochs: 3" in text
    assert "secret" not in text + str(found.data.params)
    with open(f"{folder}/notes.txt") as stream:
        assert stream.read() == "x"


def test_a_long_setting_is_cut_to_what_mlflow_keeps(tracker):
    config = build({"sweep": {"space": {"train.seed": {"grid": list(range(9000))}}}})
    run = tracker.start("long", config=config)
    assert len(read(tracker, run).data.params["sweep.space"]) == 6000


def test_a_report_logs_every_row_of_its_history_at_its_own_step(tracker):
    import mlflow

    run = tracker.start("report")
    rows = [{"step": step, "total": 1200, "train/loss": float(step)} for step in range(1200)]
    log_report(tracker.handle(run), {"epoch": 1, "step": 1199, "dev/t2v/R@1": 5.0, "history": rows})
    log_report(tracker.handle(run), {"epoch": 2, "step": 1300, "dev/t2v/R@1": 6.0, "done": True})
    history = mlflow.MlflowClient(tracking_uri=tracker.uri).get_metric_history(run, "train/loss")
    assert [(entry.step, entry.value) for entry in history] == [(step, float(step)) for step in range(1200)]
    assert read(tracker, run).data.metrics == {"train/loss": 1199.0, "progress/epoch": 2.0, "dev/t2v/R_at_1": 6.0}


def test_a_description_is_a_table_that_no_value_breaks(tracker):
    run = tracker.start("described")
    tracker.describe(run, markdown_table(["setting", "value"], [("a", 1e-4), ("b", "x|y")]))
    said = "| setting | value |\n| --- | --- |\n| a | 0.0001 |\n| b | x\\|y |"
    assert read(tracker, run).data.tags["mlflow.note.content"] == said


def test_a_value_that_is_not_finite_shows_as_nan(tracker):
    run = tracker.start("nan")
    tracker.metrics(run, {"loss": math.inf, "norm": math.nan}, step=1)
    assert all(math.isnan(value) for value in read(tracker, run).data.metrics.values())


def test_an_interrupted_run_is_taken_up_again(tracker):
    run = tracker.start("resumed")
    tracker.finish(run, "KILLED")
    tracker.resume(run)
    assert read(tracker, run).info.status == "RUNNING"
    with pytest.raises(RunError, match="Cannot find the run"):
        tracker.resume("0" * 32)


def test_the_experiment_is_found_again_by_another_tracker(tracker, runtime):
    other = Tracker(tracker.uri, runtime.experiment, None)
    run = other.start("other")
    assert read(tracker, run).info.artifact_uri.startswith(f"file://{runtime.output}/mlflow-artifacts/")


def test_a_store_that_cannot_be_used_is_one_sentence_without_its_password(tmp_path):
    with pytest.raises(RunError, match="Cannot use the MLflow store") as caught:
        Tracker(f"file://me:secret@{tmp_path}", "x", None)
    assert "secret" not in str(caught.value)


def test_a_store_that_goes_away_costs_a_warning_and_no_training(tracker, capsys):
    tracker.metrics("0" * 32, {"loss": 1.0}, step=1)
    log_report(RunHandle("nonsense://x", "e", "r"), {"step": 1, "loss": 1.0})
    assert capsys.readouterr().err.count("warning") == 2


def test_mlflow_takes_any_text_and_keeps_what_it_can(tracker):
    import mlflow

    cases = {HOSTILE[:20] * 900: {}}
    run = tracker.start("x", config=build({"sweep": {"cases": cases}}), tags={"gare.why": HOSTILE * 200})
    tracker.dataset(run, {"dataset_digest": "d" * 40}, source='/a "quoted"\\folder')
    tracker.describe(run, markdown_table(["setting"], [[HOSTILE + "\n| b"]]))
    data = mlflow.MlflowClient(tracking_uri=tracker.uri).get_run(run)
    assert data.data.tags["gare.why"].startswith(SHOWN[:40])
    assert len(data.data.tags["gare.why"]) == 8000
    assert len(data.data.params["sweep.cases"]) == 6000
    assert json.loads(data.inputs.dataset_inputs[0].dataset.source) == {"uri": '/a "quoted"\\folder'}
    described = data.data.tags["mlflow.note.content"]
    assert "<" not in described
    assert described.count("\n") == 2


def test_what_mlflow_is_given_has_no_character_that_a_database_refuses():
    assert parameter("a\0b\ud800") == tag_value("a\0b\ud800") == r"a\x00b\ud800"

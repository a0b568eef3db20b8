"""A run's best model in MLflow's registry, and what it answers."""

import json
from pathlib import Path

import pandas as pd
import pytest

from gare.api.register import best_run, register_run
from gare.common.errors import ConfigError, InputError
from gare.launch.local import fit_local
from gare.launch.tracked import record_evaluation, tracked
from gare.retrieval.folder import INDEX_VERSION
from gare.runs.run import Run
from gare.runs.state import read_state, resolve_checkpoint
from gare.tracking import read_handle
from gare.tracking.mlflow_tracker import client


@pytest.fixture(scope="module")
def trained(toy_clip, toy_shards, tmp_path_factory):
    from tests import toy

    config = toy.toy_config(toy_clip, toy_shards, tmp_path_factory.mktemp("runs"), "runtime.tracking=true")
    return Path(tracked(Run.open(config), fit_local).directory)


@pytest.fixture(scope="module")
def registered(trained, toy_shards):
    return register_run(trained, "toy videos", shards=str(toy_shards))


@pytest.fixture(scope="module")
def model(trained, registered):
    import mlflow

    with pytest.MonkeyPatch.context() as patch:  # set_tracking_uri would leave it in the environment
        patch.setenv("MLFLOW_TRACKING_URI", read_handle(trained).uri)
        return mlflow.pyfunc.load_model(registered.address)


def test_it_answers_sentences_with_videos_best_first(model):
    found = model.predict(pd.DataFrame({"query": ["a red circle", "something blue"], "top": [2, 3]}))
    assert list(found.columns) == ["query", "rank", "video_id", "score"]
    assert list(found["rank"]) == [1, 2, 1, 2, 3]
    assert set(found["video_id"]) <= {f"test{n}" for n in range(6)}
    first = found[found["query"] == "something blue"]["score"]
    assert list(first) == sorted(first, reverse=True)
    assert len(model.predict({"query": "a red circle"})) == 6


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"query": [" "]}, "Row 0: the query is empty"),
        ({"query": ["a", "b"], "top": [1, 0]}, "Row 1: top is 0"),
        ({"sentence": ["a"]}, "query"),
    ],
)
def test_a_wrong_question_is_told_in_a_sentence(model, asked, says):
    with pytest.raises(Exception, match=says) as caught:
        model.predict(pd.DataFrame(asked))
    assert len(str(caught.value)) < 300


def test_nothing_in_it_is_pickled_and_it_belongs_to_its_run(trained, registered):
    handle = read_handle(trained)
    version = client(handle.uri).get_model_version(registered.name, str(registered.version))
    assert version.run_id == handle.run_id
    place = Path(client(handle.uri).get_logged_model(registered.model_id).artifact_location.removeprefix("file://"))
    files = {path.suffix for path in place.rglob("*") if path.is_file()}
    assert {".safetensors", ".json", ".py"} <= files
    assert not files & {".pkl", ".pickle", ".pt", ".bin"}
    assert "python_model.pkl" not in (place / "MLmodel").read_text()


def test_registering_again_is_the_next_version(trained, registered, toy_shards):
    assert register_run(trained, registered.name, shards=str(toy_shards)).version == registered.version + 1


def test_a_given_index_is_registered_as_it_is_now_without_what_is_not_finished(trained, toy_shards, tmp_path):
    import mlflow

    from gare.api import search

    queries = [f"a {colour} square {n}" for colour in ("red", "blue") for n in range(50)]
    index = search.index(resolve_checkpoint(trained), toy_shards, "dev", out=tmp_path, stage_above=0, queries=queries)
    (tmp_path / ".building-0").mkdir()
    (tmp_path / ".building-0" / "1.records").write_bytes(b"half")
    done = register_run(trained, "given", index=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", read_handle(trained).uri)
        found = mlflow.pyfunc.load_model(done.address).predict({"query": "a red square", "top": 3})
    assert list(found["video_id"]) == [hit.video_id for hit in index.search("a red square", 3)]
    model = client(read_handle(trained).uri).get_logged_model(done.model_id)
    place = Path(model.artifact_location.removeprefix("file://"))
    names = {path.name for path in place.rglob("*") if path.parent.name not in ("checkpoint", "clip")}
    assert index.record.names() <= names
    assert "1.records" not in names


def test_what_cannot_be_registered_is_said(trained, toy_shards, tmp_path):
    with pytest.raises(ConfigError, match="has no /"):
        register_run(trained, "a/b", shards=str(toy_shards))
    with pytest.raises(InputError, match="not recorded in MLflow"):
        register_run(tmp_path, "x")
    with pytest.raises(InputError, match="is not an index"):
        register_run(trained, "x", index=tmp_path)
    record = {"version": INDEX_VERSION, "generation": 1, "checkpoint": str(trained), "split": "test", "segments": []}
    record |= {"dataset_digest": "0", "storage": "float16", "format": {}, "digests": {}}
    (tmp_path / "index.json").write_text(json.dumps(record | {"weights_sha256": "0"}))
    with pytest.raises(InputError, match="other weights"):
        register_run(trained, "x", index=tmp_path)
    with pytest.raises(InputError, match="There is no folder"):
        best_run(tmp_path / "nothing")


def test_an_evaluation_of_the_best_checkpoint_joins_the_runs_metrics(trained, tmp_path):
    (tmp_path / "report.html").write_text("page")
    (tmp_path / "metrics.json").write_text("{}")
    state = read_state(trained)
    values = {"out": str(tmp_path), "t2v/R@1": 50.0, "t2v/queries": 6, "version": 1, "intervals": {}}
    record_evaluation(trained / "checkpoints" / state.best, "test", values)
    handle = read_handle(trained)
    run = client(handle.uri).get_run(handle.run_id)
    tested = {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    assert tested == {"test/t2v/R_at_1": 50.0}
    files = {file.path for file in client(handle.uri).list_artifacts(handle.run_id, "evaluation/test")}
    assert files == {"evaluation/test/report.html", "evaluation/test/metrics.json"}
    assert run.data.tags["gare.best_checkpoint"].endswith(state.best)
    assert {"gare.world_size", "gare.device", "dataset_digest"} <= set(run.data.tags)
    assert run.inputs.dataset_inputs[0].tags[0].value == "training"
    assert "best_checkpoint" in {file.path for file in client(handle.uri).list_artifacts(handle.run_id)}

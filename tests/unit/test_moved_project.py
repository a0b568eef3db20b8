"""A project's folder that was moved or copied: what is in it goes on there, and nothing is made at the old path."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from gare.api.sweep import resolve_sweep
from gare.common.errors import ConfigError
from gare.config.tree import build
from gare.launch.local import fit_local
from gare.launch.tracked import record_evaluation, tracked
from gare.runs.run import Run
from gare.runs.state import read_state
from gare.tracking import begin, note_down, read_handle, sync
from gare.tracking.mlflow_tracker import client
from gare.tracking.trackers import tracker_at
from tests import toy
from tune.opening import missing, open_record, resolved
from tune.record import SweepRecord, Trial


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store without a run: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def default_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def begun(empty_store):
    """Begin a run in a folder of an output folder, with a store if there is none, and give its id."""

    def make(folder):
        if not (folder.parent / "mlflow.db").exists():
            folder.mkdir(parents=True)
            shutil.copy(empty_store, folder.parent)
        config = build({"runtime": {"output": str(folder.parent)}})
        return begin(folder, config, folder.name, tags={}, dataset={})

    return make


def as_another_process():
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    tracker_at.cache_clear()
    _artifact_repos_cache.clear()


def artifacts(folder):
    """The folder of a run's artifacts, by MLflow."""
    handle = read_handle(folder)
    return Path(unquote(urlsplit(client(handle.uri).get_run(handle.run_id).info.artifact_uri).path))


def project(folder, clip, shards):
    """A project with a CLIP and shards."""
    folder.mkdir()
    shutil.copytree(clip, folder / "clip")
    shutil.copytree(shards, folder / "shards")
    return folder


def test_a_moved_project_goes_on_where_it_is(toy_clip, toy_shards, empty_store, tmp_path, monkeypatch, capsys):
    old, new = project(tmp_path / "old %20", toy_clip, toy_shards), tmp_path / "new"
    (old / "runs").mkdir()
    shutil.copy(empty_store, old / "runs")

    def train(folder, name):
        monkeypatch.chdir(folder)
        as_another_process()
        sets = ("train.epochs=1", "runtime.tracking=true", f"runtime.name={name}")
        config = toy.toy_config("clip", "shards", "runs", *sets)
        return Path(tracked(Run.open(config), fit_local).directory)

    first = read_handle(train(old, "toy"))
    monkeypatch.chdir(tmp_path)
    old.rename(new)
    as_another_process()
    run = new / "runs" / "toy"
    (new / "report.html").write_text("page")
    values = {"out": str(new), "t2v/R@1": 50.0}
    record_evaluation(run / "checkpoints" / read_state(run).best, "test", values)
    assert "The MLflow store was moved" in capsys.readouterr().err
    handle = read_handle(run)
    assert handle.run_id == first.run_id
    assert artifacts(run).is_relative_to(new / "runs" / "mlflow-artifacts")
    files = {file.path for file in client(handle.uri).list_artifacts(handle.run_id)}
    assert files == {"config.yaml", "history.jsonl", "best_checkpoint", "evaluation"}
    assert (artifacts(run) / "evaluation" / "test" / "report.html").read_text() == "page"
    # The same command goes on in the same run, and another run's artifacts land here too.
    assert train(new, "toy") == run
    assert read_handle(run).run_id == first.run_id
    assert (artifacts(train(new, "other")) / "history.jsonl").is_file()
    assert artifacts(new / "runs" / "other").is_relative_to(new)
    assert not old.exists()
    assert "was moved" not in capsys.readouterr().err


def test_a_copied_project_leaves_the_first_one_alone(begun, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    run_id = begun(old / "run")
    shutil.copytree(old, new)
    as_another_process()
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    assert begun(new / "run") == run_id
    note_down(new / "run", artifacts={"mlflow.db": new / "mlflow.db"}, status="FINISHED")
    assert sync(new / "run")
    assert {path.name for path in artifacts(new / "run").iterdir()} == {"config.yaml", "mlflow.db"}
    assert artifacts(new / "run").is_relative_to(new)
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before


def test_artifacts_follow_only_where_they_are_and_a_sentence_says_so(begun, tmp_path, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    begun(old / "run")
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("mlflow-artifacts"))
    as_another_process()
    note_down(new / "run", tags={"a": "b"})
    assert sync(new / "run")
    assert f"move that folder to {new}/mlflow-artifacts" in capsys.readouterr().err
    assert artifacts(new / "run").is_relative_to(old)
    shutil.move(old / "mlflow-artifacts", new)
    as_another_process()
    note_down(new / "run", tags={"a": "c"})
    assert sync(new / "run")
    assert (artifacts(new / "run") / "config.yaml").is_file()
    assert artifacts(new / "run").is_relative_to(new)


def test_a_place_that_the_user_chose_stays(begun, empty_store, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs")
    store = client(f"sqlite:///{tmp_path}/runs/mlflow.db")
    store.create_experiment("gare", artifact_location=str(tmp_path / "elsewhere"))
    begun(tmp_path / "runs" / "run")
    assert artifacts(tmp_path / "runs" / "run").is_relative_to(tmp_path / "elsewhere")


def test_a_run_of_a_former_version_is_found_after_a_move(begun, tmp_path):
    old, new = tmp_path / "old" / "run", tmp_path / "new" / "run"
    run_id = begun(old)
    handle = read_handle(old)
    (old / "tracking.json").unlink()
    (old / "mlflow.json").write_text(json.dumps(asdict(handle)))
    old.parent.rename(new.parent)
    as_another_process()
    assert read_handle(new).uri == f"sqlite:///{new.parent}/mlflow.db"
    assert begun(new) == run_id
    assert not old.parent.exists()


def sweep_in(folder, monkeypatch):
    """A sweep's folder with a trial that is done and one that is not."""
    monkeypatch.chdir(folder)
    space = {"objective.trust_region.weight": {"grid": [0.1, 0.2]}}
    runtime = {"name": "deep/weights", "output": "runs", "shards": str(folder / "shards")}
    config = resolved(build({"sweep": {"space": space}, "runtime": runtime, "model": {"clip": str(folder / "clip")}}))
    sweep = folder / "runs" / "deep" / "weights"
    sweep.mkdir(parents=True)
    record, config = open_record(config, sweep, {"dataset_digest": "d"})
    for number, planned in enumerate(missing(config, record)):
        trial = Trial(f"trial-{number:03d}", planned.overrides, str(sweep / f"trial-{number:03d}"))
        record.trials.append(trial)
    record.trials[0].status, record.trials[0].best = "done", str(sweep / "trial-000" / "checkpoints" / "epoch-0001")
    record.write(sweep)
    return sweep


def test_a_sweep_goes_on_after_its_project_was_moved(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("shards", "clip"):
        (old / name).mkdir(parents=True)
    sweep_in(old, monkeypatch)
    monkeypatch.chdir(tmp_path)
    old.rename(new)
    sweep = new / "runs" / "deep" / "weights"
    config = resolve_sweep(None, resume=sweep)
    runtime = config.runtime
    places = (runtime.root, runtime.output, runtime.shards, config.model.clip)
    assert places == tuple(str(new / name) for name in ("", "runs", "shards", "clip"))
    record, config = open_record(resolved(config), sweep, {"dataset_digest": "d"})
    assert [trial.directory for trial in record.trials] == [str(sweep / f"trial-00{n}") for n in range(2)]
    assert record.trials[0].best == str(sweep / "trial-000" / "checkpoints" / "epoch-0001")
    assert [trial.status for trial in record.trials] == ["done", "pending"]
    assert not missing(config, record)
    assert str(old) not in json.dumps(SweepRecord.read(sweep).config)
    sweep.rename(sweep.with_name("renamed"))
    with pytest.raises(ConfigError, match="may be moved, not renamed"):
        resolve_sweep(None, resume=sweep.with_name("renamed"))


def test_of_overrides_of_a_resumed_sweep_the_later_wins_and_the_shards_named_always(tmp_path, monkeypatch):
    sweep = sweep_in(tmp_path, monkeypatch)
    overrides = {"train.epochs": 2, "runtime.shards": "first"}, {"train": {"epochs": 3}}
    config = resolve_sweep(None, *overrides, shards="named", resume=sweep)
    assert (config.train.epochs, config.runtime.shards) == (3, "named")


def test_a_run_with_an_absolute_clip_goes_on_after_its_project_was_moved(toy_clip, toy_shards, tmp_path, monkeypatch):
    old, new = project(tmp_path / "old", toy_clip, toy_shards), tmp_path / "new"
    monkeypatch.chdir(tmp_path)

    def config(folder, *more):
        return toy.toy_config(
            folder / "clip", folder / "shards", folder / "runs", "runtime.checkpoint_every_steps=2", *more
        )

    from gare.training import loop

    def interrupted(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_on_dev", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit_local(config(old), quiet=True)
    old.rename(new)
    summary = fit_local(config(new), quiet=True)
    assert summary.resumed_step
    assert not old.exists()
    shutil.copytree(toy_clip, new / "other")
    other = toy.toy_config(new / "other", new / "shards", new / "runs")
    with pytest.raises(ConfigError, match=r"model\.clip differ"):
        fit_local(other, quiet=True)

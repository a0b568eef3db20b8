"""A run whose folder is lost goes on from its copy on storage, as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gare.common.errors import ConfigError, InputError
from gare.common.storage import Folder
from gare.data.cache import CACHE_VARIABLE
from gare.launch import local
from gare.runs.state import read_state
from gare.runs.storage import find_checkpoint
from gare.tracking.record import Record, read_record, write_record
from tests.unit.runs.test_interruptions import RUN, Killed, fit, interrupt_before, losses, same_runs


@pytest.fixture(scope="module")
def whole(toy_clip, toy_shards, tmp_path_factory):
    from tests import toy

    return fit(toy.toy_config(toy_clip, toy_shards, tmp_path_factory.mktemp("whole"), *RUN))


@pytest.fixture
def stored(toy_run, tmp_path):
    """Settings of a run with a copy, on the node ``node``, whose own disk holds nothing of other nodes."""
    return lambda node, *more: toy_run(
        *RUN, "runtime.name=x", f"runtime.storage={tmp_path / 'storage'}", *more, output=node
    )


def cut(monkeypatch, config, step):
    with monkeypatch.context() as patch:
        interrupt_before(patch, step)
        with pytest.raises(Killed):
            fit(config)


def files(folder):
    """The files of a run's checkpoints by name."""
    below = Folder.at(Path(folder) / "checkpoints")
    return {name: (below.local / name).read_bytes() for name in below.tree() if not name.startswith(".")}


@pytest.mark.parametrize("step", [5, 10], ids=["in_the_first_epoch", "in_a_later_epoch"])
def test_a_run_that_lost_its_node_goes_on_from_the_copy(stored, whole, monkeypatch, step):
    cut(monkeypatch, stored("first"), step)
    again = fit(stored("second"))
    assert again.resumed_step == step // 3 * 3
    same_runs(again, whole)


def test_the_copy_holds_what_the_folder_holds_and_no_more(stored, tmp_path):
    summary = fit(stored("first"))
    copy = tmp_path / "storage" / "x"
    assert files(copy) == files(summary.directory) != {}
    assert read_state(copy) == read_state(Path(summary.directory))
    assert losses(copy) == losses(summary.directory)


def test_a_finished_run_is_known_to_be_finished_elsewhere(stored):
    first, second = fit(stored("first")), fit(stored("second"))
    assert second.already_finished
    assert second.best_metrics == first.best_metrics
    assert files(second.directory) == files(first.directory)


def test_a_folder_that_is_further_than_the_copy_brings_the_copy_up(stored, tmp_path):
    summary = fit(stored("first"))
    shutil.rmtree(tmp_path / "storage")
    assert fit(stored("first")).already_finished
    assert files(tmp_path / "storage" / "x") == files(summary.directory)


def test_a_copy_that_was_cut_short_is_not_believed(stored, whole, monkeypatch):
    """A driver killed while it copies leaves a part of a checkpoint that run.json does not name."""
    true_put = Folder.put

    def put(self, path, name):
        if "epoch-0001" in name and "model" in name:
            raise Killed
        true_put(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", put)
        with pytest.raises(Killed):
            fit(stored("first"))
    again = fit(stored("second"))
    assert again.resumed_step == 6
    same_runs(again, whole)


def test_storage_that_is_away_for_a_while_costs_no_training(stored, whole, monkeypatch, capfd):
    true_put, calls = Folder.put, []

    def put(self, path, name):
        calls.append(name)
        if len(calls) < 3:
            raise InputError("Cannot write there.")
        true_put(self, path, name)

    monkeypatch.setattr(Folder, "put", put)
    summary = fit(stored("first"))
    same_runs(summary, whole)
    assert "Training continues" in capfd.readouterr().err
    assert fit(stored("second")).already_finished


def test_storage_that_stays_away_is_an_error_at_the_end_and_the_same_command_mends_it(stored, whole, monkeypatch):
    def put(self, path, name):
        raise InputError("Cannot write there.")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", put)
        with pytest.raises(InputError, match="the same command copies it"):
            fit(stored("first"))
    assert fit(stored("first")).already_finished
    same_runs(fit(stored("second")), whole)


def test_another_experiment_of_this_name_is_refused(stored, monkeypatch):
    cut(monkeypatch, stored("first"), 5)
    with pytest.raises(ConfigError, match="another experiment"):
        fit(stored("second", "train.seed=5"))
    cut(monkeypatch, stored("third", "train.seed=5", "runtime.storage=null"), 5)
    with pytest.raises(ConfigError, match="hold different runs"):
        fit(stored("third", "train.seed=5"))


def test_a_copy_that_leads_elsewhere_is_refused(stored, tmp_path, monkeypatch):
    cut(monkeypatch, stored("first"), 5)
    path = tmp_path / "storage" / "x" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"last": "../../first"}))
    with pytest.raises(InputError, match=r"is damaged \('last' is"):
        fit(stored("second"))


def test_an_address_names_the_best_checkpoint_of_a_run_or_a_checkpoint(stored, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    summary = fit(stored("first"))
    address = f"file://{tmp_path / 'storage' / 'x'}"
    found = find_checkpoint(address)
    assert found.name == Path(summary.best).name
    assert read_state(found.parents[1]) is not None
    alone = find_checkpoint(f"{address}/checkpoints/{found.name}")
    for folder in (found, alone):
        assert tmp_path / "cache" in folder.parents
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == {
            p.name: p.read_bytes() for p in Path(summary.best).iterdir() if p.is_file()
        }
    with pytest.raises(InputError, match="neither a run nor a checkpoint"):
        find_checkpoint(f"file://{tmp_path}")


def test_the_newer_of_two_records_for_the_tracker_stays_and_goes_to_the_copy(stored, tmp_path, monkeypatch):
    """The driver writes it, while a rank elsewhere, which found an older one, pushes and fetches the rest."""
    monkeypatch.setattr(local, "note_down", lambda *_, **__: None)
    cut(monkeypatch, stored("first"), 5)
    write_record(tmp_path / "first" / "x", record := Record(uri="sqlite:///x.db", experiment="gare"))
    shutil.copytree(tmp_path / "first" / "x", tmp_path / "second" / "x")
    record.run_id = "of the driver"
    write_record(tmp_path / "first" / "x", record)
    copy = tmp_path / "storage" / "x"

    cut(monkeypatch, stored("second"), 8)
    assert read_record(copy).run_id is None
    cut(monkeypatch, stored("first"), 8)
    assert read_state(tmp_path / "first" / "x").step == 6
    assert read_record(tmp_path / "first" / "x").run_id == "of the driver"
    cut(monkeypatch, stored("first"), 10)
    assert read_record(copy).run_id == "of the driver"
    cut(monkeypatch, stored("second"), 14)
    assert read_record(copy).run_id == "of the driver"
    cut(monkeypatch, stored("third"), 14)
    assert read_record(tmp_path / "third" / "x").run_id == "of the driver"


def test_an_output_that_is_an_address_is_told_of_the_storage_setting(toy_run):
    with pytest.raises(ConfigError, match=r"runtime\.storage"):
        fit(toy_run("runtime.output=s3://bucket/runs"))

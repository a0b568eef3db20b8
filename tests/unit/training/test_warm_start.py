"""``train.init_from``: the weights of another run, and nothing else of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gare.cli import cli
from gare.common.errors import ConfigError, InputError
from gare.common.files import file_digest
from gare.data.shards import ShardSet
from gare.launch.local import fit_local
from gare.model import GareModel, load_model
from gare.objective.regularisers import REGULARISERS
from gare.runs.state import read_state
from gare.training import loop
from gare.training.weights import warm_start
from tests import toy


def fit(config):
    return fit_local(config, quiet=True)


@pytest.fixture(scope="module")
def source(toy_clip, toy_shards, tmp_path_factory):
    """A finished run."""
    return fit(toy.toy_config(toy_clip, toy_shards, tmp_path_factory.mktemp("source"), "train.epochs=1"))


def test_a_run_begins_with_the_weights_of_a_runs_best_checkpoint_and_at_step_0(toy_run, source, monkeypatch):
    begun = {}
    true_step = loop.train_step

    def train_step(model, optimiser, *arguments, **more):
        begun.setdefault("weights", {name: value.clone() for name, value in model.state_dict().items()})
        begun.setdefault("optimiser", dict(optimiser.state))
        begun.setdefault("step", arguments[3])
        return true_step(model, optimiser, *arguments, **more)

    monkeypatch.setattr(loop, "train_step", train_step)
    summary = fit(toy_run("train.epochs=1", "train.seed=5", f"train.init_from={source.directory}"))
    stored = load_model(source.best).state_dict()
    assert all(torch.equal(stored[name], value) for name, value in begun["weights"].items())
    assert (begun["optimiser"], begun["step"]) == ({}, 0)
    assert (summary.resumed_step, summary.steps) == (None, source.steps)
    assert read_state(Path(summary.directory)).init_from == {
        "checkpoint": str(source.best),
        "weights_sha256": file_digest(Path(source.best) / "model.safetensors"),
        "config_digest": read_state(Path(source.directory)).config_digest,
    }


def test_a_resume_goes_on_from_its_own_checkpoint_and_needs_the_first_weights_no_more(
    toy_run, source, monkeypatch, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(source.best, copy)
    settings = ("train.epochs=2", f"train.init_from={copy}")
    whole = fit(toy_run(*settings, output="whole"))
    true_step = loop.train_step

    class Killed(BaseException):
        pass

    def train_step(*arguments, **more):
        if arguments[5] == 10:
            raise Killed
        return true_step(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", train_step)
        with pytest.raises(Killed):
            fit(toy_run(*settings))
    shutil.rmtree(copy)
    again = fit(toy_run(*settings))
    assert again.resumed_from == 1
    a, b = (load_model(summary.best).state_dict() for summary in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert read_state(Path(again.directory)).init_from["checkpoint"] == str(copy)


def test_it_is_part_of_the_experiment(toy_run, source):
    fit(toy_run("train.epochs=1"))
    with pytest.raises(ConfigError, match=r"holds another experiment \(train.init_from differ\)"):
        fit(toy_run("train.epochs=1", f"train.init_from={source.best}"))


def test_a_relative_path_starts_from_the_root(toy_run, source):
    where = Path(source.directory)
    settings = (f"runtime.root={where.parent}", f"train.init_from={where.name}", "train.epochs=1")
    summary = fit(toy_run(*settings))
    assert read_state(Path(summary.directory)).init_from["checkpoint"] == str(source.best)


def test_what_is_no_checkpoint_is_refused_before_anything_starts(toy_run, tmp_path):
    config = toy_run("train.init_from=/nowhere/at/all")
    with pytest.raises(InputError, match="There is no folder /nowhere/at/all"):
        fit(config)
    assert not (tmp_path / "runs").exists()


def test_of_another_head_what_fits_is_taken_and_the_rest_is_named(toy_run, source, capfd):
    weightless = [f"objective.{name}.weight=0" for name in REGULARISERS]
    config = toy_run("model.head=xpool", *weightless, f"train.init_from={source.best}")
    model = loop.build_model(config, ShardSet(config.runtime.shards), torch.device("cpu"))[0]
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    warm_start(model, config)
    stored = load_model(source.best).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[name] if name in stored else fresh[name])
    assert not fresh.keys() <= stored.keys()
    said = " ".join(capfd.readouterr().err.split())
    assert "differs in model.head; not taken: head.psi (" in said
    assert "; new here: head." in said


def test_more_temporal_blocks_than_the_checkpoint_has_begin_as_they_would(toy_run, source, capfd):
    fit(toy_run("train.epochs=1", "model.temporal_layers=2", f"train.init_from={source.best}"))
    assert "differs in model.temporal_layers; new here: temporal." in " ".join(capfd.readouterr().err.split())


def test_a_tensor_of_another_shape_is_refused_by_its_setting(toy_run, source):
    config = toy_run("model.max_frames=9", f"train.init_from={source.best}")
    with pytest.raises(InputError, match=r"another architecture: temporal\S+ is \[.* there and \[.*max_frames differs"):
        fit(config)


def test_the_clip_of_a_checkpoint_is_a_clip_that_training_starts_from(toy_run, source, tmp_path, capfd):
    out = tmp_path / "exported"
    command = ["export-clip", str(source.directory), "--out", str(out), "--json"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert json.loads(capfd.readouterr().out)["checkpoint"] == str(source.best)
    assert CliRunner().invoke(cli, command).exit_code == 0  # its own kind of folder may be replaced
    stored = load_model(source.best)
    model = GareModel.from_clip(str(out), stored.config)
    for name, value in stored.clip.state_dict().items():
        assert torch.equal(value, model.clip.state_dict()[name])
    assert (model.tokenizer, model.pixels) == (stored.tokenizer, stored.pixels)
    fit(toy_run("train.epochs=1", f"model.clip={out}"))
    refused = CliRunner().invoke(cli, ["export-clip", str(source.directory), "--out", str(source.directory)])
    assert refused.exit_code == InputError.exit_code
    assert "holds other things" in refused.output


def test_another_tokenizer_is_refused(toy_run, source, toy_clip, tmp_path):
    shutil.copytree(toy_clip, tmp_path / "clip")
    path = tmp_path / "clip" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"whose tokenizer is not that of model\.clip"):
        fit(toy_run(f"model.clip={tmp_path / 'clip'}", f"train.init_from={source.best}"))


def test_captions_that_were_cleaned_otherwise_are_told_of(toy_run, source, toy_clip, tmp_path, capfd):
    clip = shutil.copytree(toy_clip, tmp_path / "clip")
    path = clip / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_cleaning": "none"}))
    begun = (f"train.init_from={source.best}", "train.epochs=1")
    fit(toy_run(*begun, f"model.clip={clip}"))
    heard = " ".join(capfd.readouterr().err.split())
    assert "trained with text_cleaning 'openai'; this run cleans captions by 'none', the rule of model.clip" in heard
    fit(toy_run(*begun, output="same"))
    assert "text_cleaning" not in capfd.readouterr().err


def test_other_pixel_statistics_are_refused(toy_run, source, toy_clip, tmp_path):
    clip = shutil.copytree(toy_clip, tmp_path / "clip")
    path = clip / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(
        InputError, match=r"normalised by mean \[0.48\S+, \S+ \S+ and std .*, not by mean \[0.5, 0.5, 0.5\]"
    ):
        fit(toy_run(f"model.clip={clip}", f"train.init_from={source.best}"))


def test_a_dry_run_says_where_a_run_would_begin_and_what_would_be_refused(toy_run, source):
    from gare.launch.dry_run.plan import make_plan

    (problem,) = make_plan(toy_run("train.init_from=/nowhere")).problems
    assert "There is no folder /nowhere" in problem
    assert make_plan(toy_run(f"train.init_from={source.best}")).problems == []

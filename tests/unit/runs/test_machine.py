"""A checkpoint holds what was given, and what its machine decided beside it: another machine decides anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gare.api.checkpoint import open_checkpoint
from gare.cli import main
from gare.common.nodes import Node
from gare.config.tree import load_config, to_yaml, with_overrides
from gare.launch.local import fit_local
from gare.model.checkpoint import load_checkpoint_config
from gare.model.gare import GareModel
from gare.objective import SINGLE
from gare.runs.inputs import choose_device
from gare.runs.layout import absolute
from gare.runs.run import Run
from gare.runs.state import read_state
from gare.training import loop
from gare.training.loop import decided, train

KINDS = ("cpu", "cuda")


@pytest.fixture(scope="module")
def trained(toy_clip, toy_shards, tmp_path_factory):
    from tests import toy

    return fit_local(
        toy.toy_config(toy_clip, toy_shards, tmp_path_factory.mktemp("runs"), "train.epochs=1"), quiet=True
    )


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU as far as the choice of the device goes; models that go there are noted and stay."""
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a fake GPU")
    monkeypatch.setattr(GareModel, "to", lambda self, device: moved.append(device.type) or self)
    return moved


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def of_kind(trained, kind, place):
    """A copy of a checkpoint as machines of a kind left it before: the decided device among the settings."""
    folder = Path(shutil.copytree(trained.best, place))
    config = with_overrides(load_config(folder / "config.yaml"), {"runtime.device": kind})
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["evaluate", "index", "diagnose"])
def test_a_checkpoint_of_any_machine_works_on_one_without_gpu(
    trained, kind, command, toy_shards, tmp_path, no_gpu, capfd
):
    folder = of_kind(trained, kind, tmp_path / "checkpoint")
    out = tmp_path / ("increments.png" if command == "diagnose" else "out")
    with pytest.raises(SystemExit) as ended:
        main([command, str(folder), "--shards", str(toy_shards), "--split", "dev", "--out", str(out), "--json"])
    assert ended.value.code == 0, capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_any_machine_goes_to_the_gpu_where_there_is_one(trained, kind, toy_shards, tmp_path, gpu):
    folder = of_kind(trained, kind, tmp_path / "checkpoint")
    for overrides in ((), ("runtime.device=cpu",)):
        with open_checkpoint(str(folder), str(toy_shards), overrides):
            pass
    assert gpu == ["cuda", "cpu"]


def test_a_gpu_that_is_asked_for_here_and_absent_is_refused(trained, toy_shards, no_gpu):
    from gare.common.errors import ConfigError

    asked = open_checkpoint(trained.best, str(toy_shards), ("runtime.device=cuda",))
    with pytest.raises(ConfigError, match="torch sees no GPU here"), asked:
        pass


def test_threads_are_as_given_but_no_more_than_this_machine_has(trained, toy_shards, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(trained.best, tmp_path / "checkpoint"))
    config = with_overrides(load_config(folder / "config.yaml"), {"runtime.cpu_threads": 64})
    (folder / "config.yaml").write_text(to_yaml(config))
    monkeypatch.setattr("gare.api.checkpoint.usable_cpus", lambda: 2)
    before = torch.get_num_threads()
    for overrides, count in (((), 2), (("runtime.cpu_threads=1",), 1)):
        with open_checkpoint(str(folder), str(toy_shards), overrides) as (*_, config):
            assert config.runtime.cpu_threads == torch.get_num_threads() == count
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_given_is_saved_and_what_was_decided_stands_beside_it(toy_run, kind, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "choose_device", lambda name: asked.append(name) or torch.device("cpu"))
    monkeypatch.setattr(loop, "decided", lambda *_: {"device": kind})
    config = absolute(toy_run("train.epochs=1"))
    summary = train(Run.open(config), SINGLE, lambda _: None, device=kind)
    assert asked == [kind]
    assert load_checkpoint_config(Path(summary.best)).runtime.device == "auto"
    assert json.loads((Path(summary.best) / "checkpoint.json").read_text())["decided"] == {"device": kind}
    assert read_state(Path(summary.directory)).decided == {"device": kind}


def test_a_run_notes_what_its_machine_is(toy_run, trained, gpu):
    noted = json.loads((Path(trained.best) / "checkpoint.json").read_text())["decided"]
    assert (noted["device"], noted["workers"], noted["threads"], noted["precision"]) == ("cpu", 1, 1, "fp32")
    assert (noted["tf32"], noted["deterministic"], noted["torch"]) == (False, False, torch.__version__)
    config = toy_run("train.tf32=true", "train.precision=bf16")
    noted = decided(config, SINGLE, choose_device("auto"))
    assert (noted["device"], noted["device_name"], noted["tf32"]) == ("cuda", "a fake GPU", True)
    assert decided(config, SINGLE, choose_device("cpu"))["tf32"] is False


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (4, "cuda")])
def test_workers_on_ray_get_the_settings_as_given_and_the_decision_beside_them(toy_run, gpus, device):
    from gare.launch.ray_train import NO_RETRY, _trainer

    config = absolute(toy_run("runtime.workers=[1,2]"))
    trainer = _trainer(Run.open(config), 2, [Node({"CPU": 8.0, "GPU": float(gpus)})], NO_RETRY, (), None, None)
    sent = trainer.train_loop_config
    assert sent["run"]["config"] == config.model_dump(mode="json")
    assert sent["device"] == device

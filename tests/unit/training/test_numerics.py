"""TF32 and deterministic algorithms: one policy, off unless asked for, the same in training and in every command."""

from __future__ import annotations

import os

import pytest
import torch

from gare.common.errors import RunError
from gare.config import Config
from gare.config.tree import with_overrides
from gare.launch import local
from gare.launch.local import fit_local
from gare.training import loop
from gare.training.numerics import CUBLAS_WORKSPACE, numerics, set_numerics
from tests import toy


def policy():
    backends = torch.backends
    tf32 = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)
    return tf32, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setenv(CUBLAS_WORKSPACE, "")
    monkeypatch.delenv(CUBLAS_WORKSPACE)
    with numerics(with_overrides(Config(), {"runtime.cpu_threads": torch.get_num_threads()})):
        yield


def settings(**train):
    return with_overrides(Config(), {f"train.{name}": value for name, value in train.items()})


def test_without_a_word_nothing_is_rounded_to_tf32():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    set_numerics(Config())
    assert policy() == ((False, False), False, 1)
    assert CUBLAS_WORKSPACE not in os.environ


def test_both_are_switched_on_and_off_by_their_settings():
    set_numerics(settings(tf32=True, deterministic=True))
    assert policy() == ((True, True), True, 1)
    assert os.environ[CUBLAS_WORKSPACE] == ":4096:8"
    set_numerics(settings(deterministic=True))
    assert policy() == ((False, False), True, 1)
    set_numerics(Config())
    assert policy() == ((False, False), False, 1)


def test_what_a_block_sets_is_put_back_after_it():
    torch.backends.cudnn.allow_tf32 = True
    before = policy()
    with pytest.raises(KeyError), numerics(settings(tf32=True, deterministic=True)):
        raise KeyError
    assert policy() == before


def refused_by_torch(*_, **__):
    """An operation that has no deterministic algorithm on any device."""
    torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def test_an_operation_without_a_deterministic_algorithm_is_a_sentence():
    says = r"put_ has no deterministic algorithm here; set train.deterministic=false"
    with pytest.raises(RunError, match=says), numerics(settings(deterministic=True)):
        refused_by_torch()
    with numerics(Config()):
        refused_by_torch()
    with pytest.raises(RuntimeError, match="another trouble, deterministic"), numerics(settings(deterministic=True)):
        raise RuntimeError("another trouble, deterministic or not")


def test_a_workspace_that_cublas_cannot_be_deterministic_with_is_a_sentence(monkeypatch):
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":0:0")
    message = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or [...], but this "
        "operation is not deterministic because it uses CuBLAS and you have CUDA >= 10.2. To enable deterministic "
        "behavior in this case, you must set an environment variable before running your PyTorch application: "
        "CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
    )
    says = r"CUBLAS_WORKSPACE_CONFIG is :4096:8 .*; here it is ':0:0'. Set it so, or set train.deterministic=false"
    with pytest.raises(RunError, match=says), numerics(settings(deterministic=True)):
        raise RuntimeError(message)


def seen_in(monkeypatch, module, name):
    """Record the policy whenever a function of a module is called."""
    seen, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (seen.append(policy()), real(*a, **k))[1])
    return seen


WANTED = ("train.tf32=true", "train.deterministic=true", "train.epochs=1")


def test_training_and_measuring_run_under_the_settings(toy_run, monkeypatch):
    before, config = policy(), toy_run(*WANTED)
    for module, run in ((loop, lambda: fit_local(config, quiet=True)), (local, lambda: local.measure_cost(config))):
        seen = seen_in(monkeypatch, module, "train_step")
        run()
        assert set(seen) == {((True, True), True, 1)}
        assert policy() == before


@pytest.fixture(scope="module")
def trained(toy_clip, toy_shards, tmp_path_factory):
    return fit_local(toy.toy_config(toy_clip, toy_shards, tmp_path_factory.mktemp("trained"), *WANTED), quiet=True).best


def gare(command, subject, shards, folder, *more):
    """A command's exit code."""
    from gare.cli import main

    out = folder / ("increments.png" if command == "diagnose" else "out")
    with pytest.raises(SystemExit) as ended:
        main([command, str(subject), "--shards", str(shards), "--split", "dev", "--out", str(out), *more])
    return ended.value.code


@pytest.mark.parametrize("command", ["evaluate", "index", "diagnose", "zero-shot"])
def test_commands_run_under_the_settings_of_their_checkpoint(
    trained, toy_clip, toy_shards, command, tmp_path, monkeypatch, capfd
):
    from gare.model.gare import GareModel

    before = policy()
    wanted = ("--set", "train.deterministic=true") if command == "zero-shot" else ()
    subject = toy_clip if command == "zero-shot" else trained
    name = "embed_images" if command == "zero-shot" else "embed_clips"
    seen = seen_in(monkeypatch, GareModel, name)
    assert gare(command, subject, toy_shards, tmp_path, *wanted) == 0
    tf32 = command != "zero-shot"  # which has no settings of training but this one
    assert {(each[0], each[1]) for each in seen} == {((tf32, tf32), True)}
    assert policy() == before
    monkeypatch.setattr(GareModel, name, refused_by_torch)
    assert gare(command, subject, toy_shards, tmp_path, *wanted) == RunError.exit_code
    assert "put_ has no deterministic algorithm here; set train.deterministic=false" in capfd.readouterr().err
    monkeypatch.undo()
    assert gare(command, subject, toy_shards, tmp_path, "--set", "train.deterministic=false") == 0


def test_the_same_run_gives_the_same_bits_on_a_cpu_with_and_without_deterministic_algorithms(toy_run):
    runs = [toy_run("train.epochs=1", output="a"), toy_run("train.epochs=1", "train.deterministic=true", output="b")]
    weights = [torch.load(f"{fit_local(run, quiet=True).best}/trainer.pt", weights_only=True) for run in runs]
    first, second = (state["optimiser"]["state"] for state in weights)
    assert all(torch.equal(first[key]["exp_avg"], second[key]["exp_avg"]) for key in first)


def test_settings_that_came_later_change_no_earlier_digest():
    later = {"tf32", "deterministic"}
    assert later.isdisjoint(Config().experiment()["train"])
    assert settings(tf32=False).digest() == Config().digest()
    assert len({Config().digest(), settings(tf32=True).digest(), settings(deterministic=True).digest()}) == 3

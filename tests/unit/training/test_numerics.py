"""TF32 and deterministic algorithms: one policy, off unless asked for, the same in training and in every command."""

from __future__ import annotations

import os

import pytest
import torch

from gare.common.errors import RunError
from gare.config import Config
from gare.config.tree import with_overrides
from gare.training import loop, measure
from gare.training.local import fit_local
from gare.training.numerics import CUBLAS_WORKSPACE, numerics, set_numerics


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


def test_an_operation_without_a_deterministic_algorithm_is_a_sentence():
    message = (
        "cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_determin...'\nYou can"
    )
    says = r"cumsum_cuda_kernel has no deterministic.*train.deterministic must be false"
    with pytest.raises(RunError, match=says), numerics(settings(deterministic=True)):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="does not have"), numerics(Config()):
        raise RuntimeError(message)


def seen_in(monkeypatch, module, name):
    """Record the policy whenever a function of a module is called."""
    seen, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (seen.append(policy()), real(*a, **k))[1])
    return seen


WANTED = ("train.tf32=true", "train.deterministic=true", "train.epochs=1")


def test_training_and_measuring_run_under_the_settings(toy_run, monkeypatch):
    before, config = policy(), toy_run(*WANTED)
    for module, run in ((loop, lambda: fit_local(config, quiet=True)), (measure, lambda: measure.measure(config))):
        seen = seen_in(monkeypatch, module, "train_step")
        run()
        assert set(seen) == {((True, True), True, 1)}
        assert policy() == before


@pytest.mark.parametrize("command", ["evaluate", "index", "diagnose"])
def test_commands_run_under_the_settings_of_their_checkpoint(toy_run, toy_shards, command, tmp_path, monkeypatch):
    from gare.cli import main
    from gare.model.gare import GareModel

    summary = fit_local(toy_run(*WANTED), quiet=True)
    seen = seen_in(monkeypatch, GareModel, "encode_clips")
    out = tmp_path / "increments.png" if command == "diagnose" else tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main([command, summary.best, "--shards", str(toy_shards), "--split", "dev", "--out", str(out), "--json"])
    assert ended.value.code == 0
    assert set(seen) == {((True, True), True, 1)}


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

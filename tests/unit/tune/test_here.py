"""Sweeps in one process: the same record as Ray's, the same training as gare train --local, and no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

import gare
from gare.common.errors import ConfigError
from gare.config.tree import with_overrides
from gare.launch.local import fit_local
from tune import here
from tune.record import SweepRecord
from tune.trial import trial_config

SWEEP = ("train.epochs=1", "sweep.cases={none: {model.increment: none}, all: {}}", "sweep.seeds=[0, 1]")


def test_trials_are_trained_here_as_one_run_each_and_compared(toy_run):
    config = toy_run(*SWEEP)
    before = ray.is_initialized()
    report = gare.sweep(config, local=True)
    assert ray.is_initialized() == before
    trials = report.record.trials
    assert [(trial.case, trial.overrides["train.seed"], trial.status) for trial in trials] == [
        ("none", 0, "done"), ("all", 0, "done"), ("none", 1, "done"), ("all", 1, "done"),
    ]  # fmt: skip
    assert report.comparison.page is not None
    alone = with_overrides(trial_config(config, "x", trials[3].overrides), {"runtime.name": "alone"})
    assert fit_local(alone, quiet=True).best_metrics == trials[3].metrics
    attempts = [trial.attempts for trial in gare.sweep(config, local=True).record.trials]
    assert attempts == [1, 1, 1, 1]


def test_an_interrupted_sweep_continues_and_a_failed_trial_does_not_stop_it(toy_run, monkeypatch):
    config = toy_run(*SWEEP)
    true, calls = here.fit_local, []

    def broken(run, **named):
        calls.append(run.run_name())
        if len(calls) == 2:
            raise RuntimeError("out of luck\nand more")
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true(run, **named)

    monkeypatch.setattr(here, "fit_local", broken)
    with pytest.raises(KeyboardInterrupt):
        gare.sweep(config, local=True)
    stopped = SweepRecord.read(Path(config.runtime.output) / "toy").trials
    assert [trial.status for trial in stopped] == ["done", "failed", "done", "pending"]
    assert stopped[1].error == "RuntimeError: out of luck"
    assert [trial.status for trial in gare.sweep(config, local=True).record.trials] == ["done"] * 4
    assert calls[4:] == ["toy/trial-001", "toy/trial-003"]


@pytest.mark.parametrize(
    "asked",
    [
        ("sweep.scheduler=asha", "sweep.space={train.lr_new: {grid: [0.1, 0.2]}}"),
        ("sweep.search=optuna", "sweep.space={train.lr_new: {uniform: [0.1, 0.2]}}"),
    ],
)
def test_what_needs_ray_is_refused(toy_run, asked):
    with pytest.raises(ConfigError, match="needs Ray; leave out --local"):
        gare.sweep(toy_run(*asked), local=True)

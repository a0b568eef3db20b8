"""``gare train --extend``: a finished run trained further, on a schedule of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gare.cli import main
from gare.common.errors import ConfigError
from gare.config.tree import to_yaml
from gare.launch.local import fit_local
from gare.model import load_model
from gare.objective import SINGLE
from gare.runs.run import Run
from gare.runs.state import read_state, write_state
from gare.training.loop import train
from gare.training.optimiser import learning_rate_factor, staged_factor


def fit(config):
    return fit_local(config, quiet=True)


def extend(config, epochs):
    return Run.open(config).extend(epochs)


def rows(summary, key):
    lines = (Path(summary.directory) / "history.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if key in row]


def test_a_stage_has_the_schedule_of_a_run_of_its_length():
    factors = [staged_factor(step, [10, 4], 0.2) for step in range(15)]
    assert factors[:10] == [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors[10:] == [*(learning_rate_factor(step, 4, 0.2) for step in range(4)), 0.0]


def test_a_finished_run_is_trained_further_over_a_second_rise_and_fall_of_the_rate(toy_run):
    config = toy_run("train.epochs=1", "train.warmup=0.5", "runtime.keep_best=9")
    first = fit(config)
    said = extend(config, 2)
    assert "from 1 to 3 epochs" in said
    longer = fit(config)
    assert (longer.epochs, longer.steps, longer.resumed_from) == (3, 3 * first.steps, 1)
    assert not longer.already_finished
    taken = rows(longer, "train/loss")
    assert [row["step"] for row in taken] == list(range(1, longer.steps + 1))
    per_epoch = first.steps
    wanted = [learning_rate_factor(step, per_epoch, 0.5) for step in range(per_epoch)]
    wanted += [learning_rate_factor(step, 2 * per_epoch, 0.5) for step in range(2 * per_epoch)]
    assert [row["train/lr/new/decay"] for row in taken] == pytest.approx([1e-3 * factor for factor in wanted])
    assert {row["total"] for row in taken[per_epoch:]} == {longer.steps}
    state = read_state(Path(longer.directory))
    assert (state.finished, state.extended, state.last) == (True, [2], "epoch-0003")
    made = json.loads((Path(longer.directory) / "checkpoints" / "epoch-0003" / "checkpoint.json").read_text())
    assert made["extended"] == [2]
    assert fit(config).already_finished


def test_an_interrupted_extension_goes_on_to_the_same_weights(toy_run):
    class Killed(Exception):  # noqa: N818
        pass

    def kill(report):
        if report["epoch"] == 2:
            raise Killed

    results = []
    for name in ("whole", "parts"):
        config = toy_run("train.epochs=1", output=name)
        fit(config)
        extend(config, 2)
        if name == "parts":
            with pytest.raises(Killed):
                train(Run.open(config), SINGLE, kill)
            assert "already extended by 2" in extend(config, 2)
            with pytest.raises(
                ConfigError, match=r"is not finished, at epoch 2 .* of 3 epochs; the same command without"
            ):
                extend(config, 1)
        summary = fit(config)
        results.append(load_model(Path(summary.directory) / "checkpoints" / "epoch-0003").state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_run_can_be_extended_again_and_its_copy_on_storage_knows(toy_run, tmp_path):
    config = toy_run("train.epochs=1", f"runtime.storage={tmp_path / 'storage'}")
    fit(config)
    for stages in ([1], [1, 2]):
        extend(config, stages[-1])
        there = json.loads(next((tmp_path / "storage").glob("*/run.json")).read_text())
        assert (there["extended"], there["finished"]) == (stages, False)
        assert fit(config).epochs == 1 + sum(stages)


def test_what_cannot_be_extended_is_refused(toy_run):
    config = toy_run("train.epochs=1")
    with pytest.raises(ConfigError, match="There is no finished run in"):
        extend(config, 1)
    summary = fit(config)
    with pytest.raises(ConfigError, match=r"holds another experiment \(train.seed differ\)"):
        extend(toy_run("train.epochs=1", "train.seed=7"), 1)
    folder = Path(summary.directory)
    write_state(folder, replace(read_state(folder), finished=False))
    with pytest.raises(ConfigError, match="continues it"):
        extend(config, 1)


def test_the_command_extends_says_the_schedule_and_evaluates_as_what_it_is(toy_run, toy_shards, tmp_path, capfd):
    config = toy_run("train.epochs=1", "train.select_by=t2v/R@1")
    fit(config)
    (tmp_path / "config.yaml").write_text(to_yaml(config))

    def gare(*arguments, code=0):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert ended.value.code == code, err
        return " ".join((out + err).split())

    said = gare("train", tmp_path / "config.yaml", "--local", "--extend", 1)
    assert "from 1 to 2 epochs; over the added ones the learning rate rises and falls once more" in said
    assert "went on after epoch 1" in said
    last = tmp_path / "runs" / "toy" / "checkpoints" / "epoch-0002"
    gare("evaluate", last, "--shards", toy_shards, "--out", tmp_path / "out")
    assert "epoch 2 of 2" in (tmp_path / "out" / "report.html").read_text()
    assert "leave one of them out" in gare("train", tmp_path / "config.yaml", "--dry-run", "--extend", 1, code=3)

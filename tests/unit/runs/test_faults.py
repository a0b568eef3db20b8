"""What can go wrong around a run, each fault by its name. Those of checkpoints are in test_checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gare.common.errors import RunError
from gare.common.files import make_folder
from gare.config import Config
from gare.launch.local import fit_local
from gare.launch.tracked import tracked
from gare.model import load_model
from gare.runs.layout import absolute, run_directory
from gare.runs.run import Run
from gare.runs.state import read_state
from gare.training import loop
from tests.ranks import on_ranks

RUN = ("train.epochs=2", "runtime.checkpoint_every_steps=3")
CUT, POISONED = 5, 7


class Killed(BaseException):
    pass


def losses(folder):
    rows = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def watched(true_step, seen, act=lambda *_: None):
    """The training step, its videos entered in ``seen`` and ``act`` called before it."""

    def train_step(model, optimiser, batch, config, ranks, step, **more):
        act(step, model)
        seen[step] = batch.video_ids
        return true_step(model, optimiser, batch, config, ranks, step, **more)

    return train_step


def poison(step, model):
    if step == POISONED:
        model.clip.logit_scale.data.fill_(float("nan"))


def of_two(ranks, resumed, poisoned):
    """Go on with one run on two ranks; begin another, on whose second rank a loss is not finite."""
    true_step, seen = loop.train_step, {}
    loop.train_step = watched(true_step, seen)
    summary = loop.train(Run.open(resumed), ranks, lambda _: None)
    loop.train_step = watched(true_step, {}, poison if ranks.rank == 1 else lambda *_: None)
    error = ""
    try:
        loop.train(Run.open(poisoned), ranks, lambda _: None)
    except RunError as caught:
        error = str(caught)
    return {"seen": seen, "error": error, "resumed_step": summary.resumed_step}


@pytest.fixture(scope="module")
def two_ranks(toy_clip, toy_shards, tmp_path_factory):
    """An uninterrupted run; the same cut short and gone on with by two ranks; and one poisoned on two ranks."""
    from tests import toy

    folder = tmp_path_factory.mktemp("ranks")

    def config(name) -> Config:
        return absolute(toy.toy_config(toy_clip, toy_shards, folder, *RUN, f"runtime.name={name}"))

    true_step, seen = loop.train_step, {}

    def cut(step, model):
        if step == CUT:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", watched(true_step, seen))
        fit_local(config("whole"), quiet=True)
        patch.setattr(loop, "train_step", watched(true_step, {}, cut))
        with pytest.raises(Killed):
            fit_local(config("elastic"), quiet=True)
    found = on_ranks(2, of_two, config("elastic"), config("poisoned"))
    return config, seen, found


def test_resume_with_another_worker_count_keeps_the_data_order_and_the_weights_to_rounding(two_ranks):
    config, seen, found = two_ranks
    assert [part["resumed_step"] for part in found] == [3, 3]
    for step in range(3, len(seen)):
        assert [video for part in found for video in part["seen"][step]] == seen[step]
    whole, elastic = (run_directory(config(name)) for name in ("whole", "elastic"))
    assert losses(elastic) == pytest.approx(losses(whole), rel=1e-4)
    a, b = (load_model(folder / "checkpoints" / read_state(folder).last).state_dict() for folder in (whole, elastic))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-4)


def test_loss_not_finite_on_one_rank_stops_all_ranks_at_that_step_and_goes_on_from_the_checkpoint(two_ranks):
    config, _, found = two_ranks
    for part in found:
        assert f"At step {POISONED} the loss is nan" in part["error"]
        assert "nothing was updated" in part["error"]
    folder = run_directory(config("poisoned"))
    assert read_state(folder).last == "step-00000006"
    assert set(losses(folder)) == set(range(1, POISONED + 1))
    again = fit_local(config("poisoned"), quiet=True)
    assert again.resumed_step == 6
    assert losses(folder) == pytest.approx(losses(run_directory(config("whole"))), rel=1e-4)


def test_tracker_unreachable_costs_one_warning_and_no_training(toy_run, free_port, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    whole = fit_local(toy_run(*RUN, output="whole"), quiet=True)
    config = toy_run(*RUN, "runtime.tracking=true")
    handle = {"uri": f"http://127.0.0.1:{free_port}", "experiment": "gare", "run_id": "0" * 32}
    make_folder(run_directory(config)).joinpath("mlflow.json").write_text(json.dumps(handle))
    capsys.readouterr()
    summary = fit_local(config, quiet=True)
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert "The work continues" in said
    assert losses(summary.directory) == losses(whole.directory)


def test_tracker_lost_in_the_middle_of_a_run_costs_one_warning_and_no_training(toy_run, tmp_path, capsys):
    config = toy_run(*RUN, "runtime.tracking=true")

    def fit(run):
        database = Path(config.runtime.output) / "mlflow.db"
        database.rename(tmp_path / "lost.db")
        database.mkdir()
        return fit_local(run, quiet=True)

    capsys.readouterr()
    summary = tracked(Run.open(config), fit)
    assert read_state(Path(summary.directory)).finished
    assert capsys.readouterr().err.count("warning") == 1

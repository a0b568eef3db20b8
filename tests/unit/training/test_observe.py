"""What a run's history holds, that looking changes nothing, and the word of warning when psi gives up."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gare.common.errors import RunError
from gare.data.batches import make_batch
from gare.diagnostics.measures import increment_spread, relative_length, spread
from gare.diagnostics.pairs import batch_state, split_state
from gare.launch.local import fit_local
from gare.launch.tracked import tracked
from gare.model import GareModel
from gare.objective.world import SINGLE, World
from gare.runs.inputs import open_data
from gare.runs.run import Run
from gare.runs.state import History, read_history
from gare.tracking import read_handle
from gare.training import observe
from gare.training.observe import Observer, Watched, collapse_warning, gpu_utilisation, peak_cuda
from gare.training.optimiser import make_optimiser, set_learning_rates
from gare.training.step import train_step


class Made:
    """A model, its data and an observer of both."""

    def __init__(self, config, folder, ranks=SINGLE):
        torch.manual_seed(0)
        self.config, self.data = config, open_data(config)
        self.model = GareModel.from_clip(config.model.clip, config.model)
        self.optimiser = make_optimiser(self.model, config.train)
        set_learning_rates(self.optimiser, 0.5)
        self.path = folder / "history.jsonl"
        watched = Watched(self.model, self.model.tokenizer, self.optimiser, self.data)
        self.observer = Observer(Run.open(config), ranks, watched, History(self.path, 0), elapsed_s=100.0)

    def steps(self, count, *, looked=True):
        """Train, telling the observer of 0.25 s waited in steps of 1 s."""
        size = self.model.image_size
        for step, samples in enumerate(self.data.batches(self.config, 0)[:count]):
            batch = make_batch(self.data.train, samples, self.model.tokenizer, self.config, size, epoch=0)
            if looked:
                self.observer.before_step(step, batch)
            values = train_step(self.model, self.optimiser, batch, self.config, SINGLE, step)
            if looked:
                self.observer.after_step(step + 1, values, 0.25, 1.0, samples=4)

    def rows(self, key):
        return [row for row in read_history(self.path) if any(name.startswith(key) for name in row)]


@pytest.fixture
def made(toy_run, tmp_path):
    def make(*overrides, name="runs", ranks=SINGLE):
        (tmp_path / name).mkdir()
        return Made(toy_run(*overrides, output=name), tmp_path / name, ranks)

    return make


def test_a_row_holds_loss_terms_norms_rates_and_speed_since_the_last_row(made):
    run = made("runtime.log_every=2")
    run.steps(4)
    rows = run.rows("train/")
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert {"train/loss", "train/info_nce", "train/direction_diversity", "train/logit_scale"} <= row.keys()
        assert row["train/grad_norm"] > 0
        assert row["train/lr/new/decay"] == pytest.approx(0.5e-3)
        assert row["speed/step_seconds"] == pytest.approx(1.0)
        assert row["speed/samples_per_second"] == pytest.approx(4.0)
        assert row["speed/data_wait"] == pytest.approx(0.25)
        assert row["memory/rss_gib"] > 0.05
        assert row["seconds"] >= 100


def test_the_last_step_has_a_row_whatever_log_every_is(made):
    run = made("runtime.log_every=1000", "train.epochs=1")
    run.steps(run.data.steps)
    assert [row["step"] for row in run.rows("train/")] == [run.data.steps]


def test_the_wait_and_the_memory_recorded_are_those_of_the_rank_that_has_most(made):
    class Two(World):
        def max(self, x):
            return torch.maximum(x, torch.tensor([0.75, 1000.0, 0.0, 0.6], dtype=x.dtype))

    run = made(ranks=Two())
    run.steps(1)
    (row,) = run.rows("train/")
    assert row["speed/data_wait"] == pytest.approx(0.75)
    assert row["memory/rss_gib"] == 1000
    assert row["speed/gpu_utilisation"] == pytest.approx(0.4)
    assert "memory/cuda_gib" not in row


def test_only_rank_0_writes(made, tmp_path):
    run = made("runtime.diagnose_every=1")
    watched = Watched(run.model, run.model.tokenizer, run.optimiser, run.data)
    run.observer = Observer(Run.open(run.config), SINGLE, watched, None)
    run.steps(2)
    run.observer.after_epoch(2, 1, {})
    assert read_history(run.path) == []


def test_a_diagnosed_step_is_measured_and_drawn(made):
    run = made("runtime.diagnose_every=2")
    run.steps(4)
    rows = run.rows("diagnostics/")
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["diagnostics/increment_norm/relative"] > 0.01
    assert rows[0]["diagnostics/effective_step/negative"] != 0
    folder = run.path.parent / "toy" / "diagnostics"
    assert sorted(path.name for path in folder.iterdir()) == ["step-000002.png", "step-000004.png"]


def test_without_diagnose_every_nothing_is_diagnosed(made):
    run = made()
    run.steps(3)
    assert run.rows("diagnostics/") == []


@pytest.mark.parametrize("dev", ["held_out", "none"])
def test_looking_changes_neither_the_weights_nor_the_random_state(made, dev):
    settings = ("runtime.diagnose_every=1", f"protocol.dev={dev}", "train.select_by=t2v/R@1")
    seen, unseen = made(*settings, name="seen"), made(*settings, name="unseen")
    seen.steps(3)
    seen.observer.after_epoch(3, 1, {})
    random = torch.get_rng_state()
    unseen.steps(3, looked=False)
    ours, theirs = seen.model.state_dict(), unseen.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(random, torch.get_rng_state())


def collapse(model, how):
    """Make psi answer with one zero, small or long vector for every pair."""
    with torch.no_grad():
        model.head.psi.mean_proj.weight.zero_()
        model.head.psi.mean_proj.bias.fill_({"zero": 0.0, "short": 1e-6, "same": 1.0}[how])


def dev_state(run):
    return split_state(run.model, run.model.tokenizer, run.data.dev, run.config, 5)


@pytest.mark.parametrize("corrected", ["text", "video"])
@pytest.mark.parametrize(
    ("how", "says"), [("short", "those of the plain baseline"), ("same", "all pairs get the same")]
)
def test_collapsed_increments_are_warned_of_with_the_reason(made, how, says, corrected):
    run = made(f"model.corrected={corrected}")
    assert collapse_warning(dev_state(run)) is None
    collapse(run.model, how)
    text = collapse_warning(dev_state(run))
    assert says in text
    assert "\n" not in text


def test_a_collapse_is_noticed_at_an_epochs_end_and_said_once(made):
    run = made()
    run.observer.after_epoch(4, 1, {"dev/t2v/R@1": 20.0})
    assert run.rows("warning") == []
    collapse(run.model, "same")
    for epoch in (2, 3):
        run.observer.after_epoch(4 * epoch, epoch, {"dev/t2v/R@1": 20.0})
    (row,) = run.rows("warning")
    assert row["warning"].startswith("After step 8, the increments of different pairs differ by 0 of their length")
    assert [row["epoch"] for row in run.rows("epoch")] == [1, 2, 3]


def test_one_pair_alone_warns_of_no_collapse(made):
    run = made()
    collapse(run.model, "same")
    one = split_state(run.model, run.model.tokenizer, run.data.dev, run.config, 1)
    assert len(one.text) == 1
    assert collapse_warning(one) is None
    assert collapse_warning(dev_state(run)) is not None


def test_increments_that_differ_as_little_as_the_videos_they_are_made_of_have_not_collapsed(made):
    run = made()
    state = dev_state(run)
    alike = [x + 1e3 * x.abs().max() for x in (state.text, state.video, state.delta)]
    untrained = replace(state, text=alike[0], video=alike[1], delta=alike[2])
    assert float(increment_spread(untrained.delta)) < 0.01
    assert collapse_warning(untrained) is None
    assert "differ by" in str(collapse_warning(replace(state, delta=alike[2])))


def test_pairs_are_of_train_where_dev_has_one_video(made):
    run = made()
    object.__setattr__(run.data, "dev", run.data.dev.first(1))
    assert len(run.observer._pairs().text) == len(run.data.train)


def test_the_plain_baseline_has_no_increments_that_could_collapse(made):
    run = made("model.increment=none", "runtime.diagnose_every=1")
    run.steps(1)
    run.observer.after_epoch(1, 1, {})
    assert run.rows("warning") == []


def test_spread_and_relative_length_are_what_they_say(made):
    delta = torch.zeros(2, 2, 3)
    delta[0, :, 0], delta[1, :, 0] = 3.0, -3.0
    assert float(increment_spread(delta)) == pytest.approx(1.0)
    assert float(increment_spread(torch.ones(2, 2, 3))) == 0
    assert math.isnan(float(increment_spread(torch.zeros(2, 2, 3))))
    # The increments of a text are equal, those of a video opposite.
    assert spread(delta).tolist() == [0, 0]
    assert spread(delta.transpose(0, 1)).tolist() == pytest.approx([1, 1])
    run = made()
    state = split_state(run.model, run.model.tokenizer, run.data.dev, run.config, 3)
    lengths = [float(state.delta[i, j].norm()) for i in range(3) for j in range(3)]
    bases = [float(x.norm()) for x in state.text]
    assert float(relative_length(state)) == pytest.approx(sum(lengths) / 9 / (sum(bases) / 3), rel=1e-5)


def test_a_part_of_a_batch_is_that_batch_cut(made):
    run = made()
    samples = run.data.batches(run.config, 0)[0]
    batch = make_batch(run.data.train, samples, run.model.tokenizer, run.config, run.model.image_size)
    whole, part = batch_state(run.model, batch), batch_state(run.model, batch, 2)
    torch.testing.assert_close(part.delta, whole.delta[:2, :2])


def test_a_cpu_has_no_gpu_figures():
    assert gpu_utilisation(torch.device("cpu")) is None
    assert peak_cuda(torch.device("cpu")) == 0


def recorded(summary):
    """The MLflow run of a training run."""
    import mlflow

    handle = read_handle(Path(summary.directory))
    client = mlflow.MlflowClient(tracking_uri=handle.uri)
    return client, handle.run_id, client.get_run(handle.run_id).data


def test_rows_pictures_and_warnings_reach_the_tracker(toy_run, monkeypatch):
    said = "the increments have been made to look collapsed."
    monkeypatch.setattr(observe, "collapse_warning", lambda _: said)
    config = toy_run("train.epochs=1", "runtime.tracking=true", "runtime.diagnose_every=4")
    summary = tracked(Run.open(config), fit_local)
    client, run_id, data = recorded(summary)
    assert {"speed/data_wait", "memory/rss_gib", "train/lr/clip/decay", "diagnostics/increment_spread"} <= set(
        data.metrics
    )
    assert data.tags["gare.warning"] == f"After step 4, {said}"
    figures = [artifact.path for artifact in client.list_artifacts(run_id, "diagnostics")]
    assert figures == ["diagnostics/step-000004.png", "diagnostics/step-000008.png"]


def test_a_run_that_fails_leaves_its_history_and_pictures_with_the_tracker(toy_run):
    config = toy_run("train.epochs=2", "runtime.tracking=true", "runtime.diagnose_every=4")

    def fit_and_fail(run):
        fit_local(run, quiet=True)
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="the disk is full"):
        tracked(Run.open(config), fit_and_fail)
    client, run_id, _ = recorded(SimpleNamespace(directory=Path(config.runtime.output) / "toy"))
    assert {artifact.path for artifact in client.list_artifacts(run_id)} >= {"history.jsonl", "diagnostics"}

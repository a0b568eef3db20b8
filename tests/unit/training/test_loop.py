"""The training loop in one process: it learns, repeats, resumes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gare.common.errors import ConfigError, InputError, RunError
from gare.launch.local import fit_local
from gare.model import load_model
from gare.objective import SINGLE
from gare.runs.layout import absolute, clip_source
from gare.runs.run import Run
from gare.runs.state import read_state, resolve_checkpoint
from gare.training.loop import train
from gare.training.step import train_step


def losses(summary):
    rows = [json.loads(line) for line in (Path(summary.directory) / "history.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def fit(config):
    return fit_local(config, quiet=True)


def test_training_lowers_the_loss_and_retrieves_the_dev_split(toy_run):
    summary = fit(toy_run("train.epochs=12", "data.captions=one_per_video"))
    values = losses(summary)
    assert len(values) == summary.steps == 12 * 4
    assert sum(values[-4:]) < 0.7 * sum(values[:4])
    assert summary.best_metrics["dev/t2v/R@1"] >= 40  # 20 by chance


def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_is_not(toy_run):
    first, second = (fit(toy_run("train.epochs=1", output=name)) for name in "ab")
    assert losses(first) == losses(second)
    assert losses(first) != losses(fit(toy_run("train.epochs=1", "train.seed=7", output="c")))


def test_a_run_stopped_after_an_epoch_goes_on_as_if_uninterrupted(toy_run):
    whole = fit(toy_run("train.epochs=3", output="whole"))

    class Killed(Exception):  # noqa: N818
        pass

    def kill(report):
        if report["epoch"] == 1:
            raise Killed

    config = toy_run("train.epochs=3", output="parts")
    with pytest.raises(Killed):
        train(Run.open(config), SINGLE, kill)
    reports = []
    resumed = train(Run.open(config), SINGLE, reports.append)
    assert [row["epoch"] for report in reports for row in report["history"] if "epoch" in row] == [1, 2, 3]
    assert resumed.resumed_from == 1
    assert losses(resumed) == losses(whole)
    a, b = (load_model(Path(s.best)).state_dict() for s in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_started_again_does_nothing(toy_run):
    config = toy_run("train.epochs=1")
    first = fit(config)
    again = fit(config)
    assert again.already_finished
    assert again.best == first.best


def test_another_experiment_under_the_same_name_is_refused_by_its_keys(toy_run):
    fit(toy_run("train.epochs=1"))
    with pytest.raises(ConfigError, match=r"holds another experiment \(train.seed differ\); choose another"):
        fit(toy_run("train.epochs=1", "train.seed=3"))


def test_runtime_settings_may_change_between_a_run_and_its_resume(toy_run):
    fit(toy_run("train.epochs=1"))
    assert fit(toy_run("train.epochs=1", "runtime.log_every=5")).already_finished


def test_best_checkpoint_is_chosen_on_dev_and_others_are_removed(toy_run):
    summary = fit(toy_run("train.epochs=4"))
    state = read_state(Path(summary.directory))
    kept = {p.name for p in (Path(summary.directory) / "checkpoints").iterdir()}
    assert kept == {state.best, state.last}
    assert resolve_checkpoint(summary.directory) == Path(summary.best)


def test_checkpoint_loads_without_the_clip_it_started_from(toy_run, toy_clip, tmp_path):
    moved = tmp_path / "clip"
    moved.symlink_to(toy_clip)
    summary = fit(toy_run("train.epochs=1", f"model.clip={moved}"))
    moved.unlink()
    assert load_model(summary.best).tokenizer is not None


def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_videos(toy_run):
    from gare.data.batches import make_batch
    from gare.data.shards import ShardSet
    from gare.model import GareModel
    from gare.training.optimiser import make_optimiser

    config = toy_run()
    model = GareModel.from_clip(config.model.clip, config.model)
    split = ShardSet(config.runtime.shards).split("train")
    batch = make_batch(split, [(0, 0), (1, 0), (2, 1), (3, 0)], model.tokenizer, config, model.image_size)
    with torch.no_grad():
        model.head.psi.mean_proj.bias[0] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RunError, match=r"diverged, nothing was updated.*train0, train2, train4, train6"):
        train_step(model, make_optimiser(model, config.train), batch, config, SINGLE, 3)
    assert all(torch.equal(before[n], v) or "mean_proj.bias" in n for n, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("train.global_batch=64", InputError, "less than one batch of train.global_batch = 64; lower it"),
        ("data.dev_split=val", InputError, "has no split 'val'; its splits are: dev, test, train"),
        ("runtime.shards=/nowhere", InputError, "There is no folder /nowhere"),
        ("runtime.shards=null", ConfigError, "No shards are named"),
        ("model.clip=/nowhere", InputError, "Cannot load a CLIP model from /nowhere"),
        ("train.select_by=t2v/R1", ConfigError, "cannot choose a checkpoint"),
        ("data.words=40", ConfigError, "has 16 text positions"),
        ("runtime.device=cuda", ConfigError, "torch sees no GPU"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence(toy_run, override, error, message):
    if "cuda" in override and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so asking for one is right")
    with pytest.raises(error) as caught:
        fit(toy_run(override))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shards_of_another_size_than_the_model_takes_are_refused(toy_run, tmp_path):
    from gare.model.scratch import ScratchClip, make_clip

    make_clip(["a"], tmp_path / "big", ScratchClip(64, 16, 64, 1, 1, 16, 280))
    with pytest.raises(ConfigError, match=r"32-pixel frames, but the CLIP model takes 64; prepare with"):
        fit(toy_run(f"model.clip={tmp_path / 'big'}"))


def test_shards_of_another_recipe_than_the_settings_say_are_refused(toy_run):
    with pytest.raises(ConfigError, match=r"prepared by another recipe .* or train with --set prepare.max_frames=3"):
        fit(toy_run("prepare.max_frames=8"))


def test_a_run_moved_with_its_relative_clip_folder_is_the_same_experiment(toy_run, toy_clip, tmp_path, monkeypatch):
    digests = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "clip").symlink_to(toy_clip)
        monkeypatch.chdir(tmp_path / place)
        config = absolute(toy_run("model.clip=clip", "runtime.name=null"))
        assert clip_source(config) == str(tmp_path / place / "clip")
        digests.append((config.digest(), config.run_name()))
    assert digests[0] == digests[1]


def test_places_that_are_no_folders_are_refused(toy_run):
    with pytest.raises(ConfigError, match=r"runtime.output is s3://bucket/runs"):
        fit(toy_run("runtime.output=s3://bucket/runs"))


def test_a_dev_split_without_captions_is_refused_before_training(toy_run, tmp_path):
    from tests import toy

    shards = toy.make_shards(tmp_path / "bare", {"train": 8, "dev": 4}, uncaptioned="dev")
    with pytest.raises(InputError, match=r"'dev' of .* has no captions to choose the checkpoint by"):
        fit(toy_run(f"runtime.shards={shards}"))


def test_a_train_split_without_captions_is_refused_before_training(toy_run, tmp_path):
    from tests import toy

    shards = toy.make_shards(tmp_path / "bare", {"train": 8, "dev": 4}, uncaptioned="train")
    with pytest.raises(InputError, match=r"No video of the split 'train' of .* has a caption"):
        fit(toy_run(f"runtime.shards={shards}"))


def test_a_video_without_captions_is_in_no_batch(toy_run, tmp_path):
    from gare.runs.inputs import open_data
    from tests import toy

    shards = toy.make_shards(tmp_path / "bare", {"train": 8, "dev": 4}, uncaptioned="train3")
    config = toy_run(f"runtime.shards={shards}")
    data = open_data(config)
    assert data.remarks(config)[0] == "1 of 8 videos of train have no caption and are left out."
    bare = [video.video_id for video in data.train.videos].index("train3")
    seen = {video for epoch in range(5) for batch in data.batches(config, epoch) for video, _ in batch}
    assert seen == set(range(8)) - {bare}


def test_a_lost_store_or_a_damaged_handle_costs_the_record_and_not_the_training(toy_run):
    from gare.launch.tracked import tracked

    config = toy_run("train.epochs=1", "runtime.tracking=true")
    first = tracked(Run.open(config), fit_local)
    handle = Path(first.directory) / "tracking.json"
    for damage in ("{", json.dumps(json.loads(handle.read_text()) | {"run_id": "0" * 32})):
        handle.write_text(damage)
        assert tracked(Run.open(config), fit_local).already_finished
        assert json.loads(handle.read_text())["run_id"] != "0" * 32

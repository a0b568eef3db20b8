"""What a sample takes of the stored frames: exactly what sampling the videos would give, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gare.common.errors import ConfigError, InputError
from gare.config import Config, DataConfig
from gare.config.tree import load_config
from gare.data.batches import View, check_random_crop, check_sampling, draws, load_frames, make_batch
from gare.data.shards import ShardSet
from tests import toy


def dataset(folder, *, notes=None, **settings) -> ShardSet:
    toy.make_shards(folder, {"train": 12, "dev": 2}, **settings)
    if notes is not None:
        values = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(values | {"totals": {"notes": notes}}))
    return ShardSet(folder)


def using(frames: int, sampling: str = "linspace", crop: str = "centre") -> Config:
    return load_config(None, [f"data.frames={frames}", f"data.sampling={sampling}", f"data.crop={crop}"])


def of(split, count: int) -> int:
    """A video with so many stored frames."""
    return next(i for i in range(len(split)) if split.count(i) == count)


# Which frames


def test_segments_draw_one_frame_each_in_training_and_their_middle_in_evaluation(tmp_path):
    split = dataset(tmp_path / "s", stored=9).split("train")
    view, video = View(DataConfig(frames=3, sampling="random_segment"), toy.SIDE), of(split, 9)
    stored = split.frames(video, 9)
    assert np.array_equal(view.clip(split, video), stored[[1, 4, 7]])
    seen = set()
    for epoch in range(40):
        clip = view.clip(split, video, draws(0, epoch, (video, 0)))
        picked = [int(np.flatnonzero((stored == frame).all(axis=(1, 2, 3)))[0]) for frame in clip]
        assert [place // 3 for place in picked] == [0, 1, 2]
        seen.update(picked)
    assert seen == set(range(9))


def test_a_video_with_few_frames_keeps_them_all_however_it_is_sampled(tmp_path):
    split = dataset(tmp_path / "s", stored=9).split("train")
    view, video = View(DataConfig(frames=4, sampling="random_segment"), toy.SIDE), of(split, 3)
    assert np.array_equal(view.clip(split, video, draws(0, 0, (0, 0))), split.frames(video, 9))
    assert np.array_equal(view.clip(split, video), split.frames(video, 9))


def test_draws_depend_on_seed_epoch_and_sample_alone(tmp_path):
    split = dataset(tmp_path / "s", stored=9, shape=(40, 48)).split("train")
    config = load_config(
        None, ["data.frames=3", "data.sampling=random_segment", "data.crop=random", "data.words=5", "train.seed=3"]
    )
    samples = [(video, caption) for video in range(6) for caption in range(2)]

    def frames(chosen, epoch, settings=config):
        return make_batch(split, chosen, tokenizer, settings, toy.SIDE, epoch=epoch).frames

    def tokenizer(texts, words):
        return np.zeros((len(texts), words)), np.ones((len(texts), words), bool)

    whole = frames(samples, 1)
    parts = [frames(samples[:5], 1), frames(samples[5:], 1)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, frames(samples, 2))
    other = load_config(None, ["train.seed=4"]).train
    assert not np.array_equal(whole, frames(samples, 1, config.model_copy(update={"train": other})))
    video = of(split, 9)
    assert not np.array_equal(*frames([(video, 0), (video, 1)], 1))
    assert np.array_equal(frames(samples, None), frames(samples, None))


# Which square


def test_larger_frames_are_cropped_to_their_centre(tmp_path):
    split = dataset(tmp_path / "s", shape=(41, 48)).split("train")
    frames, _ = load_frames(split, [0, 1], View(DataConfig(frames=3), toy.SIDE))
    assert frames.shape == (2, 3, 3, 32, 32)
    stored = split.frames(0, 3)
    assert np.array_equal(frames[0, 0].permute(1, 2, 0), stored[0, 4:36, 8:40])


def test_frames_of_the_models_size_are_taken_whole(tmp_path):
    split = dataset(tmp_path / "s").split("train")
    for crop in ("centre", "random"):
        clip = View(DataConfig(frames=3, crop=crop), toy.SIDE).clip(split, 2, draws(0, 0, (2, 0)))
        assert np.array_equal(clip, split.frames(2, 3))


def test_random_crops_reach_every_corner_and_are_one_place_per_clip(tmp_path):
    split = dataset(tmp_path / "s", shape=(33, 34)).split("train")
    view, video = View(DataConfig(frames=3, crop="random"), toy.SIDE), of(split, 3)
    stored = split.frames(video, 3)
    places = {(top, left): stored[:, top : top + 32, left : left + 32] for top in range(2) for left in range(3)}
    seen = set()
    for epoch in range(60):
        clip = view.clip(split, video, draws(0, epoch, (video, 0)))
        seen.add(next(place for place, square in places.items() if np.array_equal(square, clip)))
    assert seen == set(places)
    assert np.array_equal(view.clip(split, video), places[0, 1])


def test_a_row_smaller_than_its_recipe_says_is_damaged(tmp_path):
    split = dataset(tmp_path / "s", shape=(16, 40)).split("train")
    with pytest.raises(InputError, match="40 x 16 pixels, and 32 are needed"):
        View(DataConfig(frames=3), toy.SIDE).clip(split, 0)


# What is exact


@pytest.mark.parametrize(
    ("settings", "frames", "sampling"),
    [
        ({"stored": 5}, 5, "linspace"),  # as many as stored
        ({"stored": 5}, 3, "linspace"),  # nests
        ({"stored": 5, "policy": "uniform"}, 2, "linspace"),
        ({"stored": 5}, 1, "linspace"),
        ({"stored": 5, "max_frames": 6}, 4, "linspace"),  # no video fills the limit
        ({"stored": 5, "max_frames": 6, "policy": "segment_middle"}, 3, "random_segment"),
        ({"stored": 5, "policy": "all_candidates", "notes": {"partial": 1}}, 4, "random_segment"),
        ({"stored": 5, "policy": "timestamps", "notes": {}}, 4, "linspace"),
        ({"stored": 5, "policy": "segment_middle"}, 5, "linspace"),
    ],
)
def test_sampling_that_is_exact_is_allowed(tmp_path, settings, frames, sampling):
    check_sampling(dataset(tmp_path / "s", **settings), using(frames, sampling))


@pytest.mark.parametrize(
    ("settings", "frames", "sampling", "message"),
    [
        ({"stored": 5}, 4, "linspace", "data.frames can be 1, 2, 3, 5; or prepare with prepare.max_frames=4"),
        ({"stored": 5}, 8, "linspace", "data.frames is 8, but the shards"),
        ({"stored": 5, "policy": "segment_middle"}, 3, "linspace", "data.frames can be 5;"),
        ({"stored": 5, "policy": "all_candidates"}, 3, "linspace", "that no video exceeds"),
        ({"stored": 5, "policy": "all_candidates", "notes": {"truncated": 1}}, 3, "linspace", "data.frames can be 5;"),
        ({"stored": 5}, 5, "random_segment", "set data.sampling=linspace"),
        ({"stored": 5}, 3, "random_segment", "prepare.policy=all_candidates"),
    ],
)
def test_sampling_that_is_not_exact_is_refused_with_what_to_do(tmp_path, settings, frames, sampling, message):
    with pytest.raises(ConfigError) as caught:
        check_sampling(dataset(tmp_path / "s", **settings), using(frames, sampling))
    assert message in str(caught.value)


def test_a_count_of_truncated_videos_that_cannot_be_is_refused(tmp_path):
    shards = dataset(tmp_path / "s", stored=5, policy="all_candidates", notes={"truncated": 99})
    with pytest.raises(InputError, match="counts 99 truncated videos"):
        check_sampling(shards, using(3))


def test_training_refuses_inexact_sampling_before_it_starts(toy_clip, tmp_path):
    from gare.runs.inputs import open_data

    shards = toy.make_shards(tmp_path / "s", {"train": 12, "dev": 4}, stored=8)
    config = toy.toy_config(toy_clip, shards, tmp_path / "runs", "prepare.max_frames=8")
    with pytest.raises(ConfigError, match=r"data.frames is 3, .* data.frames can be 1, 2, 8"):
        open_data(config)
    open_data(toy.toy_config(toy_clip, shards, tmp_path / "runs", "prepare.max_frames=8", "data.frames=2"))


# What fits


def test_random_crops_need_something_to_crop(tmp_path):
    cropped = dataset(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"data\.crop is random, but"):
        check_random_crop(cropped, using(3, crop="random"), 32)
    check_random_crop(cropped, using(3), 32)
    check_random_crop(cropped, using(3, crop="random"), 24)
    check_random_crop(dataset(tmp_path / "b", crop=None), using(3, crop="random"), 32)


def test_a_run_trains_on_uncropped_frames_with_draws_and_repeats_itself(toy_clip, tmp_path):
    from gare.launch.local import fit_local
    from gare.runs.layout import HISTORY_FILE

    shards = toy.make_shards(
        tmp_path / "s", {"train": 8, "dev": 4}, stored=5, shape=(36, 44), crop=None, short_side=36, max_frames=6
    )
    sets = ("prepare.crop=null", "prepare.short_side=36", "prepare.max_frames=6", "data.sampling=random_segment")
    histories = []
    for name in ("one", "two"):
        summary = fit_local(
            toy.toy_config(toy_clip, shards, tmp_path / name, *sets, "data.crop=random", "train.epochs=1"), quiet=True
        )
        rows = (Path(summary.directory) / HISTORY_FILE).read_text().splitlines()
        repeated = ("step", "epoch", "train/", "dev/")
        histories.append([{k: v for k, v in json.loads(row).items() if k.startswith(repeated)} for row in rows])
    assert histories[0] == histories[1]

"""What training takes from shards is what preparing just that would have stored, or it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gare.common.errors import ConfigError
from gare.config import DataConfig
from gare.config.prepare import PrepareConfig
from gare.config.tree import load_config
from gare.data.batches import View, check_sampling
from gare.data.shards import ShardSet
from tests.prepared import make_sources, prepare

SMALL = {"short_side": 32, "crop": 32, "candidate_fps": 5.0, "unit_videos": 4}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_sources(tmp_path_factory.mktemp("sources") / "videos")


@pytest.fixture(scope="module")
def shards(tmp_path_factory, videos):
    """Shards of a recipe, each made once."""
    made = {}

    def get(**settings) -> ShardSet:
        key = str(sorted(settings.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("shards") / "out"
            made[key] = ShardSet(prepare(folder, videos, PrepareConfig(**{**SMALL, **settings})))
        return made[key]

    return get


def clips(shards: ShardSet, frames: int, size: int = 32) -> dict[str, np.ndarray]:
    """Every video as evaluation takes it."""
    view = View(DataConfig(frames=frames), size)
    splits = [shards.split(name) for name in shards.splits]
    return {video.video_id: view.clip(split, i) for split in splits for i, video in enumerate(split.videos)}


def allowed(shards: ShardSet, frames: int, **settings: str) -> bool:
    sets = [f"data.{name}={value}" for name, value in settings.items()]
    try:
        check_sampling(shards, load_config(None, [f"data.frames={frames}", "model.max_frames=99", *sets]))
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(
    "settings",
    [
        {"max_frames": 9},
        {"max_frames": 9, "policy": "uniform"},
        {"max_frames": 9, "policy": "segment_middle"},
        {"max_frames": 40},
        {"max_frames": 40, "policy": "all_candidates"},
        {"max_frames": 9, "policy": "all_candidates"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_is_allowed_is_what_preparing_it_gives(shards, settings):
    stored = shards(**settings)
    answers = {frames: allowed(stored, frames) for frames in range(1, 10)}
    assert any(answers.values())
    thinning = "fps_linspace" if settings.get("policy") == "all_candidates" else settings.get("policy", "fps_linspace")
    for frames in (frames for frames, answer in answers.items() if answer):
        policy = settings.get("policy") if frames == settings["max_frames"] else thinning
        wanted = clips(shards(max_frames=frames, policy=policy or "fps_linspace"), frames)
        for name, clip in clips(stored, frames).items():
            np.testing.assert_array_equal(clip, wanted[name])


def test_what_is_refused_would_be_other_frames(shards):
    stored = shards(max_frames=9)
    assert [frames for frames in range(1, 10) if not allowed(stored, frames)] == [4, 6, 7, 8]
    for frames in (4, 6, 7, 8):
        wanted, got = clips(shards(max_frames=frames), frames), clips(stored, frames)
        assert any(not np.array_equal(clip, wanted[name]) for name, clip in got.items())


def test_truncated_videos_are_counted_and_end_what_all_candidates_allow(shards):
    whole, cut = (shards(max_frames=count, policy="all_candidates") for count in (20, 9))
    assert whole.manifest["totals"]["notes"] == {}
    assert whole.complete  # one video has 20 candidates, and all are there
    assert allowed(whole, 7, sampling="random_segment")
    assert cut.manifest["totals"]["notes"] == {"truncated": 2}
    assert not cut.complete
    assert not allowed(cut, 7, sampling="random_segment")
    assert not shards(max_frames=20).complete  # nothing tells whether the 20 were thinned


@pytest.mark.parametrize("crop", [None, 40])
def test_larger_frames_are_cropped_to_what_would_have_been_stored(shards, crop):
    settings = {"max_frames": 9, "short_side": 40}
    larger, wanted = shards(**settings, crop=crop), shards(**settings, crop=32)
    assert larger.side == 40
    shape = larger.split("train").frames(0, 1).shape[1:]
    assert shape == ((40, 60, 3) if crop is None else (40, 40, 3))
    others = clips(wanted, 9)
    for name, clip in clips(larger, 9).items():
        assert np.abs(clip.astype(int) - others[name]).mean() <= 0.01


def test_jpeg_frames_of_any_shape_come_back(shards):
    shape = shards(max_frames=4, crop=None, storage="jpeg").split("test").frames(0, 4).shape
    assert shape == (4, 32, 48, 3)

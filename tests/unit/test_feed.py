"""The feed: the batches of make_batch, in order, whatever is read ahead; and it ends when it should."""

from __future__ import annotations

import gc
import json
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gare.common.errors import InputError
from gare.data import feed as feed_module
from gare.data.augment import augmented
from gare.data.batches import make_batch
from gare.data.feed import Feed
from gare.launch.local import fit_local
from gare.model.gare import GareModel
from gare.runs.inputs import open_data
from gare.runs.layout import HISTORY_FILE
from tests import toy

CPU = torch.device("cpu")
DRAWS = ("data.sampling=random_segment", "data.known_positives=same_video", "prepare.max_frames=6")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture(scope="module")
def made(toy_clip, tmp_path_factory):
    """Settings, data and tokenizer of a run with random frames."""
    folder = tmp_path_factory.mktemp("feed")
    shards = toy.make_shards(folder / "s", {"train": 18, "dev": 4}, stored=5, max_frames=6)
    tokenizer = GareModel.from_clip(toy_clip, toy.toy_config(toy_clip, shards, folder).model).tokenizer

    def make(*overrides):
        config = toy.toy_config(toy_clip, shards, folder / "runs", *DRAWS, *overrides)
        return config, open_data(config), tokenizer

    return make


def feed_of(made, *overrides, own=slice(None), start=0, epoch=1, device=CPU):
    config, data, tokenizer = made(*overrides)
    batches = data.batches(config, epoch)
    return Feed(data.train, batches, tokenizer, config, toy.SIDE, epoch, own, device, start)


def expected(made, *, own=slice(None), epoch=1):
    config, data, tokenizer = made()
    batches = data.batches(config, epoch)
    return [make_batch(data.train, rows[own], tokenizer, config, toy.SIDE, epoch=epoch) for rows in batches]


def same(one, other):
    tensors = ("frames", "frame_mask", "token_ids", "token_mask", "groups")
    return one.video_ids == other.video_ids and all(
        torch.equal(getattr(one, name).cpu(), getattr(other, name).cpu()) for name in tensors
    )


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name == "gare-feed"]


@pytest.mark.parametrize("settings", [(0, 1), (1, 1), (3, 1), (100, 1), (2, 3)])
def test_batches_are_those_of_make_batch_whatever_is_read_ahead(made, settings):
    ahead, threads = settings
    wanted = expected(made)
    got = list(feed_of(made, f"runtime.read_ahead={ahead}", f"runtime.read_threads={threads}"))
    assert len(got) == len(wanted) > 5
    assert all(same(*pair) for pair in zip(got, wanted, strict=True))
    assert not feed_threads()


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_rank_gets_its_rows_from_the_batch_it_resumes_at(made, ahead):
    feed = feed_of(made, f"runtime.read_ahead={ahead}", own=slice(2, 4), start=3)
    wanted = expected(made, own=slice(2, 4))[3:]
    assert len(feed) == len(wanted)
    assert all(same(*pair) for pair in zip(feed, wanted, strict=True))
    assert len(feed) == 0


def test_an_epoch_that_is_over_has_no_batches(made):
    assert list(feed_of(made, start=10_000)) == []


@pytest.mark.skipif(find_spec("kornia") is None, reason="kornia is not installed (gare-ray[augment])")
def test_augmented_batches_are_augmented_as_the_samples_say(made):
    config, data, _ = made("data.augment=rand")
    got = list(feed_of(made, "data.augment=rand"))
    plain = expected(made)
    for batch, unchanged, samples in zip(got, plain, data.batches(config, 1), strict=True):
        assert same(batch, augmented(unchanged, samples, config.train.seed, 1))
    assert not all(same(*pair) for pair in zip(got, plain, strict=True))


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_error_comes_out_unchanged_after_the_batches_before_it(made, monkeypatch, ahead):
    error, calls = InputError("The frames of 'v' are damaged."), []

    def failing(*given, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return make_batch(*given, **settings)

    monkeypatch.setattr(feed_module, "make_batch", failing)
    feed = feed_of(made, f"runtime.read_ahead={ahead}")
    assert all(same(next(feed), wanted) for wanted in expected(made)[:2])
    with pytest.raises(InputError) as caught:
        next(feed)
    assert caught.value is error
    assert not feed_threads()
    assert list(feed) == []


def test_no_more_is_made_than_asked_to_be_ahead(made, monkeypatch):
    calls = []
    monkeypatch.setattr(feed_module, "make_batch", lambda *a, **k: calls.append(1) or make_batch(*a, **k))
    feed = feed_of(made, "runtime.read_ahead=2")
    until(lambda: len(calls) == 2)
    next(feed)
    until(lambda: len(calls) == 3)
    feed.close()
    assert len(calls) == 3
    assert list(feed) == []


def until(condition):
    """Wait for what another thread does."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_the_thread_ends_when_the_feed_is_left_or_dropped(made):
    with feed_of(made) as feed:
        next(feed)
        assert feed_threads()
    assert not feed_threads()
    feed = feed_of(made)
    next(feed)
    del feed
    gc.collect()
    assert not feed_threads()
    feed_of(made).close()
    assert not feed_threads()


def test_an_interrupt_while_waiting_ends_the_thread(made, monkeypatch):
    feed = feed_of(made)

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(feed._ahead, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(feed)
    assert not feed_threads()


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_wait_is_that_of_the_last_batch(made, monkeypatch, ahead):
    feed = feed_of(made, f"runtime.read_ahead={ahead}")
    assert feed.waited_s == 0
    clock = iter([10.0, 10.5, 20.0, 20.25])
    monkeypatch.setattr(feed_module.time, "perf_counter", lambda: next(clock))
    next(feed)
    assert feed.waited_s == 0.5
    next(feed)
    assert feed.waited_s == 0.25
    feed.close()


def test_a_run_is_the_same_whatever_is_read_ahead_and_not_when_positives_are_known(toy_run):
    losses = []
    for number, sets in enumerate(
        (
            ["runtime.read_ahead=0"],
            ["runtime.read_ahead=3", "runtime.read_threads=2"],
            ["data.known_positives=attribute", "data.positives_attribute=colour"],
        )
    ):
        summary = fit_local(toy_run("train.epochs=1", *sets, output=f"runs{number}"), quiet=True)
        rows = [json.loads(row) for row in (Path(summary.directory) / HISTORY_FILE).read_text().splitlines()]
        losses.append([row["train/loss"] for row in rows if "train/loss" in row])
    assert len(losses[0]) > 4
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@needs_cuda
@pytest.mark.parametrize("ahead", [0, 3])
def test_batches_on_a_gpu_are_the_same(made, ahead):
    device = torch.device("cuda", 0)
    wanted = expected(made)
    for batch, plain in zip(feed_of(made, f"runtime.read_ahead={ahead}", device=device), wanted, strict=True):
        assert batch.frames.device == device
        assert same(batch, plain)

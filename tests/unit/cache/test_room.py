"""Copies of shards on a node stay within their room; what goes is the longest unused, and never what is in use."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gare.common.errors import InputError
from gare.common.storage import Folder
from gare.data.cache import Cache, damaged, entries, hold, room
from tests.made_cache import MARGIN, copy, make_dataset, same_files, states


class Steps:
    """A model of the cache: which datasets are there, in which order they were used, and which are held."""

    def __init__(self, folder, sizes, limit):
        self.sets = [make_dataset(folder / f"set-{n}", (size,)) for n, size in enumerate(sizes)]
        self.cache = Cache(str(folder / "cache"), limit, mounted=True, threads=1)
        self.sizes, self.order, self.held, self.refusals = sizes, [], {}, []

    def open(self, number):
        folder, digest = self.sets[number]
        there = {copy.digest for copy in entries(self.cache.root)}
        others = sum(self.sizes[n] + MARGIN for n in self.held if n != number)
        try:
            held = hold(Folder.at(folder), self.cache)
        except InputError as error:
            assert digest not in there
            assert others + self.sizes[number] + MARGIN > self.cache.limit
            self.refusals.append(str(error))
            assert {copy.digest for copy in entries(self.cache.root)} == there  # refused: nothing was removed
            return
        self.held.setdefault(number, []).append(held)
        self.order = [n for n in self.order if n != number] + [number]
        time.sleep(0.002)  # times of files are no finer than this
        same_files(held.folder, folder)
        now = {copy.digest for copy in entries(self.cache.root)}
        kept = [n for n in self.order if self.sets[n][1] in now]
        gone = [n for n in self.order if n not in kept]
        free = [n for n in self.order if n not in self.held]
        assert gone == free[: len(gone)], "not the longest unused went first"
        self.order = kept

    def close(self, number):
        for held in self.held.pop(number, []):
            held.close()
            self.order = [n for n in self.order if n != number] + [number]
            time.sleep(0.002)

    def check(self):
        copies = {copy.digest: copy for copy in entries(self.cache.root)}
        assert sum(path.stat().st_size for path in self.cache.root.rglob("*") if path.is_file()) <= self.cache.limit
        for number in self.held:
            assert copies[self.sets[number][1]].state == "in use"
            assert damaged(self.cache.root / self.sets[number][1], 1) == []
        assert all("runtime.cache_gb" in text for text in self.refusals)


@given(
    sizes=st.lists(st.integers(0, 30_000), min_size=2, max_size=5),
    limit=st.integers(10_000, 90_000),
    steps=st.lists(st.tuples(st.sampled_from(("open", "open", "close")), st.integers(0, 4)), max_size=14),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_opened_copies_stay_within_the_limit_and_what_is_used_stays(tmp_path_factory, sizes, limit, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # most of the time goes there
        model = Steps(tmp_path_factory.mktemp("steps"), sizes, limit)
        for what, number in steps:
            getattr(model, what)(number % len(sizes))
            model.check()
        for number in list(model.held):
            model.close(number)


def test_of_copies_made_at_once_each_counts_what_the_others_will_take(tmp_path, monkeypatch):
    cache = Cache(str(tmp_path / "cache"), 24_000, mounted=True, threads=1)
    sets = [make_dataset(tmp_path / f"set-{n}", (12_000,)) for n in range(2)]
    inside, go_on = threading.Event(), threading.Event()
    true_fetch = Folder.fetch

    def fetch(self, name, target, *, on_chunk=None):
        inside.set()
        go_on.wait(20)
        true_fetch(self, name, target, on_chunk=on_chunk)

    monkeypatch.setattr(Folder, "fetch", fetch)
    first = threading.Thread(target=copy, args=(sets[0][0], cache))
    first.start()
    inside.wait(20)
    with pytest.raises(InputError, match=r"copies in use take .* of the 0\.02 MB that runtime\.cache_gb"):
        copy(sets[1][0], cache)
    go_on.set()
    first.join()
    copy(sets[1][0], cache)
    assert states(cache) == {sets[1][1]: "unused"}


def test_a_dataset_that_can_never_fit_is_refused_before_a_byte_is_copied(tmp_path, fetched):
    folder, _ = make_dataset(tmp_path / "set", (4_000_000,))
    cache = Cache(str(tmp_path / "cache"), 1_000_000, mounted=True)
    with pytest.raises(InputError, match=r"take 4\.00 MB, and runtime\.cache_gb lets .* take 1\.00 MB: raise it"):
        copy(folder, cache)
    assert fetched == []
    assert states(cache) == {}


GIB = 2**30


@pytest.mark.parametrize(
    ("free", "limit", "gone"),
    [
        (50 * GIB, None, []),
        (9 * GIB, None, ["old", "new"]),  # under a tenth of the disk: all that is unused goes
        (10 * GIB + 9000, None, ["old"]),
        (9 * GIB, 1.0, []),
        (GIB + 9000, 1.0, ["old"]),  # a GiB stays free
    ],
)
def test_unused_copies_go_where_the_disk_gets_full(tmp_path, monkeypatch, free, limit, gone):
    cache = Cache(str(tmp_path / "cache"), None if limit is None else int(limit * 1e9), mounted=True)
    digests = {}
    for name in ("old", "new"):
        folder, digests[name] = make_dataset(tmp_path / name, (6000,))
        copy(folder, cache)
        time.sleep(0.01)
    monkeypatch.setattr(room, "disk", lambda _: room.Disk(100 * GIB, free))
    folder, _ = make_dataset(tmp_path / "third", (8000,))
    copy(folder, cache)
    assert [name for name in digests if digests[name] not in states(cache)] == gone


def test_a_disk_without_room_is_one_sentence_and_loses_nothing(tmp_path, dataset, cache, monkeypatch, fetched):
    kept = make_dataset(tmp_path / "other")
    copy(kept[0], cache)
    fetched.clear()
    monkeypatch.setattr(room, "disk", lambda _: room.Disk(100 * GIB, GIB - 10_000_000))
    with pytest.raises(
        InputError, match=r"take 0\.01 MB, 10\.00 MB more than the disk .* runtime\.cache, or GARE_CACHE"
    ):
        copy(dataset[0], cache)
    assert (fetched, list(states(cache))) == ([], [kept[1]])


def test_a_disk_that_gets_full_meanwhile_is_one_sentence_and_leaves_nothing(dataset, cache, monkeypatch):
    from gare.common import storage

    def write(sink, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_write_all", write)
        with pytest.raises(InputError, match=r"The disk of the cache folder .* is full, and the unfinished copy"):
            copy(dataset[0], cache)
    assert states(cache) == {}
    same_files(copy(dataset[0], cache), dataset[0])

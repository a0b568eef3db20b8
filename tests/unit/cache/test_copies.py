"""Copies of shards on a node: whole or not believed, made once, and never removed from under a reader."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import threading

import pytest

from gare.common import locks
from gare.common.errors import ConfigError, InputError
from gare.common.files import write_json
from gare.common.storage import Folder
from gare.config import Config
from gare.config.tree import with_overrides
from gare.data.cache import CACHE_VARIABLE, Cache, cache_folder, damaged, evict, hold
from gare.data.cache import copies as copying
from gare.data.shards import ShardSet
from gare.schema import DATASET_FILE, SHARD_FOLDER
from tests.made_cache import SIZES, copier, copy, end, go_on, make_dataset, same_files, states


def test_a_dataset_is_copied_once_and_then_found(dataset, cache, fetched):
    folder, digest = dataset
    first = copy(folder, cache)
    assert first == cache.root / digest
    same_files(first, folder)
    assert len(fetched) == 2
    assert copy(folder, cache) == first
    assert len(fetched) == 2
    assert damaged(first) == []


def test_shards_are_read_from_the_copy_only_where_that_is_asked_for(toy_shards, tmp_path, cache):
    assert ShardSet(toy_shards).folder == toy_shards
    shards = ShardSet(toy_shards, cache)
    assert shards.folder == cache.root / shards.digest
    plain = ShardSet(toy_shards).split("train")
    ours = shards.split("train")
    assert all((ours.frames(n, 3) == plain.frames(n, 3)).all() for n in range(len(plain)))
    del shards
    gc.collect()
    assert list(states(cache).values()) == ["in use"]  # by the split
    del ours
    gc.collect()
    assert list(states(cache).values()) == ["unused"]


@pytest.mark.parametrize("how", ["shorter", "gone", "no_dataset_file", "dataset_file_of_other_files", "no_json"])
def test_a_copy_that_is_not_whole_is_made_whole(dataset, cache, how):
    folder, digest = dataset
    there = copy(folder, cache)
    shard, listed = there / SHARD_FOLDER / "part-0.arrow", there / DATASET_FILE
    if how == "shorter":
        os.truncate(shard, 10)
    elif how == "gone":
        shard.unlink()
    elif how == "no_dataset_file":
        listed.unlink()
    elif how == "no_json":
        listed.write_text("{")
    else:
        listed.write_text(listed.read_text().replace("part-0", "part-9"))
    same_files(copy(folder, cache), folder)
    assert states(cache) == {digest: "unused"}


def test_an_unfinished_copy_is_checked_to_the_bit_before_its_files_are_kept(dataset, cache, fetched):
    folder, _ = dataset
    there = copy(folder, cache)
    (there / DATASET_FILE).unlink()
    path = there / SHARD_FOLDER / "part-1.arrow"
    path.write_bytes(bytes(len(path.read_bytes())))  # what a machine without power may leave
    fetched.clear()
    same_files(copy(folder, cache), folder)
    assert fetched == [f"{SHARD_FOLDER}/part-1.arrow"]


@pytest.mark.timeout(120)
def test_a_process_killed_while_it_copies_leaves_what_is_taken_up(dataset, cache, fetched):
    folder, digest = dataset
    process = copier(folder, cache)
    assert "part-0" in process.stdout.readline()
    go_on(process)
    assert "part-1" in process.stdout.readline()
    assert states(cache) == {digest: "being copied"}
    process.send_signal(signal.SIGKILL)
    end(process)
    left = {path.name for path in (cache.root / digest / SHARD_FOLDER).iterdir()}
    assert "part-0.arrow" in left
    assert any(name.endswith(".tmp") for name in left)
    assert states(cache) == {digest: "unfinished"}
    same_files(copy(folder, cache), folder)
    assert fetched == [f"{SHARD_FOLDER}/part-1.arrow"]


@pytest.mark.timeout(120)
def test_two_processes_at_once_copy_once_and_neither_loses_it(dataset, cache):
    folder, digest = dataset
    first = copier(folder, cache)
    assert "part-0" in first.stdout.readline()
    second = copier(folder, cache)
    assert "Waiting for another process" in second.stderr.readline()
    go_on(first)
    assert "part-1" in first.stdout.readline()
    go_on(first)
    assert [process.stdout.readline().split()[0] for process in (first, second)] == ["held", "held"]
    assert states(cache) == {digest: "in use"}
    end(first)
    assert not evict(cache.root, digest)
    second.send_signal(signal.SIGKILL)
    end(second)
    assert evict(cache.root, digest)
    assert states(cache) == {}


def test_threads_that_open_a_dataset_at_once_copy_it_once(dataset, cache, fetched):
    folder, digest = dataset
    start, found = threading.Barrier(4), []

    def work():
        start.wait()
        found.append(copy(folder, cache))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache.root / digest] * 4
    assert len(fetched) == 2


@pytest.mark.parametrize("where", ["file", "below_file"])
def test_a_cache_folder_that_cannot_be_one_is_one_sentence(dataset, tmp_path, where):
    (tmp_path / "cache").write_text("in the way")
    folder = tmp_path / "cache" if where == "file" else tmp_path / "cache" / "below"
    with pytest.raises(InputError, match=r"set runtime\.cache, or GARE_CACHE, to a folder"):
        copy(dataset[0], Cache(str(folder), mounted=True))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_another_user_is_read_where_it_is_whole_and_else_one_sentence(dataset, cache, tmp_path):
    there = copy(dataset[0], cache)
    other, _ = make_dataset(tmp_path / "other")
    folders = [cache.root, *(path for path in cache.root.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        assert hold(Folder.at(dataset[0]), cache).folder == there
        with pytest.raises(InputError, match=r"\(Permission denied\); set runtime\.cache"):
            copy(other, cache)
    finally:
        for path in folders:
            path.chmod(0o755)


def test_a_folder_that_can_only_be_read_serves_the_copies_it_has(dataset, cache, tmp_path, monkeypatch):
    there = copy(dataset[0], cache)
    other, _ = make_dataset(tmp_path / "other")

    def read_only(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(locks, "_open", read_only)
    assert copy(dataset[0], cache) == there
    with pytest.raises(InputError, match=r"\(Read-only file system\); set runtime\.cache"):
        copy(other, cache)


@pytest.mark.parametrize(("code", "there"), [(errno.ENOSPC, True), (errno.EROFS, False)])
def test_a_lock_that_cannot_be_made_says_why_unless_it_can_be_read(tmp_path, monkeypatch, code, there):
    path, real = tmp_path / "lock", os.open
    if there:
        path.touch()

    def refuse(name, flags, *mode):
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(name, flags, *mode)

    monkeypatch.setattr(locks.os, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        locks.take_lock(path)


def test_storage_that_is_away_for_a_moment_is_asked_again(dataset, cache, monkeypatch):
    monkeypatch.setattr(copying, "PAUSES_S", (0.01, 0.01))
    true_fetch, calls = Folder.fetch, []

    def fetch(self, name, target, *, on_chunk=None):
        calls.append(name)
        if len(calls) < 3:
            raise InputError("Cannot read there.")
        true_fetch(self, name, target, on_chunk=on_chunk)

    monkeypatch.setattr(Folder, "fetch", fetch)
    same_files(copy(dataset[0], Cache(cache.folder, mounted=True, threads=1)), dataset[0])


@pytest.mark.parametrize(("how", "says"), [("other", "another SHA-256"), ("gone", "is missing")])
def test_a_source_that_is_not_what_it_says_is_refused_and_not_believed_later(dataset, cache, how, says):
    folder, digest = dataset
    path = folder / SHARD_FOLDER / "part-1.arrow"
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(SIZES[1]))
    for _ in range(2):
        with pytest.raises(InputError, match=says):
            copy(folder, cache)
    assert states(cache) == {digest: "unfinished"}
    assert not list(cache.root.rglob("*.tmp"))


@pytest.mark.parametrize(("key", "value"), [("digest", "../../x"), ("digest", ""), ("bytes", "9"), ("sha256", None)])
def test_a_dataset_file_that_cannot_be_believed_is_refused(dataset, cache, key, value):
    path = dataset[0] / DATASET_FILE
    values = json.loads(path.read_text())
    (values if key == "digest" else values["shards"][0])[key] = value
    write_json(path, values)
    with pytest.raises(InputError, match=r"is damaged.*; run gare prepare again"):
        copy(dataset[0], cache)
    assert not cache.root.exists()


def test_settings_say_where_copies_lie_and_change_no_experiment(monkeypatch, tmp_path):
    ours = with_overrides(Config(), {"runtime.cache": "~/x", "runtime.cache_gb": 2.5, "runtime.cache_mounted": True})
    assert ours.digest() == Config().digest()
    found = Cache.of(ours.runtime)
    assert (found.limit, found.mounted) == (2_500_000_000, True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert found.root == tmp_path / "x" / "shards"
    assert cache_folder() == tmp_path / ".cache" / "gare"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "given"))
    assert Cache().root == tmp_path / "given" / "shards"


@pytest.mark.parametrize("folder", ["s3://bucket/cache", "cache", ""])
def test_a_cache_that_is_no_folder_of_each_node_is_refused(folder):
    with pytest.raises(ConfigError, match=r"runtime\.cache.*absolute path"):
        with_overrides(Config(), {"runtime.cache": folder})

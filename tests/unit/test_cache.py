"""Copies of shards on a node: whole or not believed, within their room, and never removed from under a reader."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gare.cli import cli
from gare.cli.command import call
from gare.common.errors import ConfigError, InputError
from gare.common.files import file_digest, write_json
from gare.common.storage import Folder
from gare.config import Config
from gare.config.tree import with_overrides
from gare.data import cache as package
from gare.data.cache import CACHE_VARIABLE, Cache, cache_folder, damaged, entries, evict, hold, room
from gare.data.cache import copies as copying
from gare.data.shards import ShardSet
from gare.doctor.every import Wanted, look
from gare.schema import DATASET_FILE, SCHEMA_VERSION, SHARD_FOLDER

ROOT = Path(__file__).parents[2]
SIZES = (4000, 3000)
MARGIN = 6000
"""More than what is counted of a copy beside its shards: dataset file and note."""

SLOW = """
import sys, time
from gare.common.storage import Folder
from gare.data.cache import Cache, hold
true_fetch = Folder.fetch
def fetch(self, name, target, *, on_chunk=None):
    def slowly(chunk):
        print("came", name, flush=True)
        time.sleep(float(sys.argv[3]))
        on_chunk(chunk)
    true_fetch(self, name, target, on_chunk=slowly)
Folder.fetch = fetch
held = hold(Folder.at(sys.argv[1]), Cache(sys.argv[2], mounted=True, threads=1))
print("held", held.folder, flush=True)
sys.stdin.read()
"""


def make_dataset(folder, sizes=SIZES, seed=0):
    """What a cache knows of a dataset: its file, and shards whose content it does not look into."""
    made = random.Random(f"{folder.name}{seed}")
    (folder / SHARD_FOLDER).mkdir(parents=True)
    shards = []
    for number, size in enumerate(sizes):
        path = folder / SHARD_FOLDER / f"part-{number}.arrow"
        path.write_bytes(made.randbytes(size))
        shards.append({"file": path.name, "rows": 1, "bytes": size, "sha256": file_digest(path)})
    values = {"schema_version": SCHEMA_VERSION, "digest": f"{made.getrandbits(64):016x}", "recipe_digest": "x"}
    values |= {"recipe": {"max_frames": 3, "short_side": 32}, "splits": {}, "shards": shards}
    write_json(folder / DATASET_FILE, values)
    return folder, values["digest"]


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "set")


@pytest.fixture
def cache(tmp_path):
    return Cache(str(tmp_path / "cache"), mounted=True, threads=2)


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that were copied."""
    names, true_fetch = [], Folder.fetch

    def fetch(self, name, target, *, on_chunk=None):
        names.append(name)
        true_fetch(self, name, target, on_chunk=on_chunk)

    monkeypatch.setattr(Folder, "fetch", fetch)
    return names


def copy(folder, cache):
    """Have a copy and let go of it; its folder."""
    held = hold(Folder.at(folder), cache)
    held.close()
    return held.folder


def same_files(one, other):
    names = {path.name for path in (other / SHARD_FOLDER).iterdir()}
    assert names == {path.name for path in (one / SHARD_FOLDER).iterdir()}
    for name in names:
        assert (one / SHARD_FOLDER / name).read_bytes() == (other / SHARD_FOLDER / name).read_bytes()


def states(cache):
    return {copy.digest: copy.state for copy in entries(cache.root)}


def slow(dataset, cache, seconds, lines=0):
    """A process that copies a dataset, ``seconds`` a file, and holds it; it has printed this many lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(dataset), str(cache.folder), str(seconds)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, [process.stdout.readline() for _ in range(lines)]


def end(process):
    process.stdin.close()
    process.wait(timeout=30)
    for stream in (process.stdout, process.stderr):
        stream.close()


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


@pytest.mark.timeout(60)
def test_a_process_killed_while_it_copies_leaves_what_is_taken_up(dataset, cache, fetched):
    folder, digest = dataset
    process, said = slow(folder, cache, 0.3, lines=2)  # in the second file
    assert said[1].split() == ["came", f"{SHARD_FOLDER}/part-1.arrow"]
    assert states(cache) == {digest: "being copied"}
    process.send_signal(signal.SIGKILL)
    end(process)
    left = {path.name for path in (cache.root / digest / SHARD_FOLDER).iterdir()}
    assert "part-0.arrow" in left
    assert any(name.endswith(".tmp") for name in left)
    assert states(cache) == {digest: "unfinished"}
    same_files(copy(folder, cache), folder)
    assert fetched == [f"{SHARD_FOLDER}/part-1.arrow"]


@pytest.mark.timeout(60)
def test_two_processes_at_once_copy_once_and_neither_loses_it(dataset, cache, capfd):
    folder, digest = dataset
    first, _ = slow(folder, cache, 0.3, lines=1)
    second, said = slow(folder, cache, 0.3, lines=1)
    assert said[0].split()[0] == "held"
    assert f"came {SHARD_FOLDER}/part-1.arrow\nheld" in first.stdout.readline() + first.stdout.readline()
    assert states(cache) == {digest: "in use"}
    end(first)
    assert "Waiting for another process" in second.stderr.readline()
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
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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

    monkeypatch.setattr(package.locks, "_open", read_only)
    assert copy(dataset[0], cache) == there
    with pytest.raises(InputError, match=r"\(Read-only file system\); set runtime\.cache"):
        copy(other, cache)


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
    with pytest.raises(InputError, match="is damaged; run gare prepare again"):
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


@pytest.fixture
def command(capfd, monkeypatch, cache):
    monkeypatch.setenv(CACHE_VARIABLE, cache.folder)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            call(cli, ["cache", *arguments, "--json"], "gare")
        out, err = capfd.readouterr()
        return ended.value.code, json.loads(out), err

    return run


def test_the_command_lists_and_removes_what_nobody_uses(tmp_path, cache, command):
    sets = [make_dataset(tmp_path / name) for name in ("one", "two")]
    copy(sets[0][0], cache)
    held = hold(Folder.at(sets[1][0]), cache)
    code, result, said = command()
    assert code == 0
    found = {row["digest"]: row for row in result["copies"]}
    assert {digest: found[digest]["state"] for _, digest in sets} == {sets[0][1]: "unused", sets[1][1]: "in use"}
    assert found[sets[0][1]]["source"] == str(sets[0][0])
    assert result["bytes"] == sum(row["there"] for row in found.values()) > 2 * sum(SIZES)
    assert all(word in said for word in ("in use", "unused", sets[0][1]))
    assert command("--evict", sets[1][1])[0] == 4
    assert command("--evict", "nothing")[0] == 3
    code, result, _ = command("--all")
    assert (code, result["removed"], [row["digest"] for row in result["copies"]]) == (0, [sets[0][1]], [sets[1][1]])
    held.close()
    assert command("--evict", sets[1][1][:6])[1]["removed"] == [sets[1][1]]


def test_the_command_finds_damaged_copies(dataset, cache, command):
    folder, digest = dataset
    held = hold(Folder.at(folder), cache)
    assert command("--verify")[1]["damaged"] == {}
    (held.folder / SHARD_FOLDER / "part-0.arrow").write_bytes(bytes(SIZES[0]))
    code, result, _ = command("--verify")
    assert (code, result["damaged"]) == (4, {digest: ["part-0.arrow"]})
    held.close()
    code, result, _ = command("--verify")
    assert (code, result["removed"]) == (0, [digest])


def test_doctor_looks_at_the_cache_where_shards_are_copied(tmp_path, dataset):
    def found(cache, shards=str(dataset[0])):
        said = look(Wanted(0, shards, cache=cache))
        return next((finding for finding in said if finding.check == "cache"), None)

    assert found(Cache()) is None
    folder = str(tmp_path / "cache")
    assert found(Cache(folder, mounted=True)).state == "ok"
    assert not (tmp_path / "cache").exists()
    assert found(Cache(folder, 10**18, mounted=True)).state == "warn"
    copy(dataset[0], Cache(folder, mounted=True))
    assert "1 copies of shards take 0.01 MB" in found(Cache(folder, mounted=True)).says
    (tmp_path / "file").touch()
    broken = found(Cache(str(tmp_path / "file"), mounted=True))
    assert (broken.state, "runtime.cache" in broken.mend) == ("fail", True)

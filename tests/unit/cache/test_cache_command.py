"""``gare cache`` and ``gare doctor`` about the copies of shards on a node."""

from __future__ import annotations

import json

import pytest

from gare.cli import cli
from gare.cli.command import call
from gare.common.storage import Folder
from gare.data.cache import CACHE_VARIABLE, Cache, hold
from gare.doctor import every
from gare.doctor.every import Wanted
from gare.schema import SHARD_FOLDER
from tests.made_cache import SIZES, copy, make_dataset


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
        checks = dict(every._places(Wanted(0, shards, cache=cache)))
        return checks["cache"]() if "cache" in checks else None

    assert found(Cache()) is None
    folder = str(tmp_path / "cache")
    assert found(Cache(folder, mounted=True)).state == "ok"
    assert not (tmp_path / "cache").exists()
    assert found(Cache(folder, 10**18, mounted=True)).state == "warn"
    copy(dataset[0], Cache(folder, mounted=True))
    assert "1 copies of shards take 0.01 MB" in found(Cache(folder, mounted=True)).says
    (tmp_path / "file").touch()
    broken = found(Cache(str(tmp_path / "file"), mounted=True))
    assert (broken.state, "runtime.cache" in broken.fix) == ("fail", True)

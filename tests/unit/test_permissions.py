"""Folders of somebody else: what may be read is used, anything else is one sentence, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pytest

from gare.cli import main
from gare.common.files import file_digest, refuse_unwritable
from gare.common.storage import Folder
from gare.config.tree import to_yaml
from gare.data.cache import Cache, hold
from gare.launch.local import fit_local
from gare.schema import MANIFEST
from pipelines.manifest.rows import write_manifest
from tests import toy
from tests.made_shards import made_row, make_dataset
from tests.prepared import make_sources, prepare
from tests.unit.tune.made_sweep import trial, write
from tests.unprivileged import give_away, run_unprivileged

SIZES = ("--set", "prepare.short_side=32", "--set", "prepare.crop=32")
QUICK = ("prepare, new", "train, new", "evaluate, out", "index, new", "sweep", "shards")
SPACE = ("--set", "sweep.space={train.seed: {grid: [0, 1]}}")


@pytest.fixture(scope="module")
def place(tmp_path_factory, toy_clip, toy_shards):
    """What is ours to read in ``.``, the same of somebody else in ``foreign``, closed to us in ``secret``."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine").mkdir()
    foreign = folder / "foreign"
    shutil.copytree(toy_clip, foreign / "clip")
    shutil.copytree(toy_shards, foreign / "shards")
    videos = make_sources(foreign / "videos")
    prepare(foreign / "prepared", videos)
    make_dataset(foreign / "dataset", [made_row(f"a{n}", "train" if n else "test") for n in range(3)])
    hold(Folder.at(foreign / "dataset"), Cache(str(foreign / "cache"), mounted=True)).close()
    config = toy.toy_config(foreign / "clip", foreign / "shards", folder / "mine/runs", "train.epochs=1")
    run = fit_local(config.model_copy(update={"runtime": config.runtime.model_copy(update={"output": str(foreign)})}))
    (foreign / "toy.yaml").write_text(to_yaml(config))
    write(foreign / "sweep", [trial(0, 50.0), trial(1, 40.0, **{"train.seed": 1})])
    rows = [{"video_id": n, "uri": f"{videos}/{n}.mp4", "split": "train", "captions": [n]} for n in "abc"]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), foreign / "m.parquet")
    (foreign / "m.csv").write_text("video_id,uri,split,captions\na,a.mp4,train,a cat\n")
    assert run.directory == foreign / "toy"
    for words in (("evaluate", run.directory, "--resamples", 0), ("index", run.directory, "--out", foreign / "index")):
        with pytest.raises(SystemExit):
            main([str(word) for word in (*words, "--shards", foreign / "shards")])
    shutil.copytree(foreign, folder / "secret")
    for path in (folder / "secret").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    for path in shutil.copytree(foreign, folder / "read-only").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "read-only").chmod(0o555)
    give_away(foreign, folder / "secret")
    yield folder
    (folder / "read-only").chmod(0o755)


def files(folder):
    return {path: file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def may_read(f, mine):
    """Commands that only read what belongs to somebody else."""
    quick = ("--shards", f / "shards", "--resamples", 0)
    return {
        "prepare": ("prepare", f / "m.parquet", "--local", "--out", mine / "prepared", *SIZES),
        "train": ("train", f / "toy.yaml", "--local"),
        "init from": ("train", f / "toy.yaml", "--local", "--set", "runtime.name=b",
                      "--set", f"train.init_from={f}/toy"),
        "cached": ("train", f / "toy.yaml", "--local", "--dry-run", "--set", f"runtime.cache={f}/cache",
                   "--set", "runtime.cache_mounted=true", "--set", f"runtime.shards={f}/dataset"),
        "evaluate": ("evaluate", f / "toy", *quick, "--out", mine / "results"),
        "index": ("index", f / "toy", "--shards", f / "shards", "--out", mine / "index"),
        "search": ("search", f / "index", "a red square"),
        "compare": ("compare", f / "sweep", "--out", mine / "comparison"),
        "inspect": ("inspect", f / "prepared", "--verify"),
        "shards": ("shards", "merge", f / "dataset", "--out", mine / "merged"),
        "cache": ("cache", "--folder", f / "cache", "--verify"),
        "config": ("config", f / "toy.yaml"),
    }  # fmt: skip


def may_not_write(f, mine):
    """Commands that would write where they may not, and the place that the sentence must name."""
    quick, out = ("--shards", f / "shards", "--resamples", 0), ("--set", f"runtime.output={f}")
    cache = ("--set", "runtime.cache_mounted=true", "--set", f"runtime.cache={f}/new", "--set", "runtime.name=c")
    return {
        "prepare, new": (f / "new", "prepare", f / "m.parquet", "--local", "--out", f / "new", *SIZES),
        "prepare, again": (f / "prepared", "prepare", f / "m.parquet", "--local", "--out", f / "prepared", *SIZES),
        "train, new": (f / "new", "train", f / "toy.yaml", "--local", *out, "--set", "runtime.name=new"),
        "train, resumed": (f / "toy", "train", f / "toy.yaml", "--local", *out),
        "train, extended": (f / "toy", "train", f / "toy.yaml", "--local", *out, "--extend", 2),
        "train, cache": (f / "new", "train", f / "toy.yaml", "--local", *cache),
        "evaluate": (f / "toy", "evaluate", f / "toy", *quick),
        "evaluate, out": (f / "new", "evaluate", f / "toy", *quick, "--out", f / "new"),
        "evaluate, sheet": (f / "s.png", "evaluate", f / "toy", *quick, "--out", mine / "e", "--sheet", f / "s.png"),
        "zero-shot": (f / "new", "zero-shot", f / "clip", *quick, "--out", f / "new"),
        "index, new": (f / "new", "index", f / "toy", "--shards", f / "shards", "--out", f / "new"),
        "index, again": (f / "index", "index", f / "toy", "--shards", f / "shards", "--out", f / "index"),
        "sweep": (f / "new", "sweep", f / "toy.yaml", *out, "--set", "runtime.name=new", *SPACE),
        "compare": (f / "sweep", "compare", f / "sweep"),
        "shards": (f / "new", "shards", "merge", f / "dataset", "--out", f / "new"),
        "cache": (f / "cache", "cache", "--folder", f / "cache", "--all"),
        "manifest": (f / "n.parquet", "manifest", "csv", f / "m.csv", "--out", f / "n.parquet"),
        "make-clip": (f / "new", "make-clip", f / "m.parquet", "--out", f / "new"),
        "corpus": (f / "new", "corpus", "--out", f / "new", "--videos", 12),
        "diagnose": (f / "new", "diagnose", f / "toy", "--shards", f / "shards", "--out", f / "new"),
        "demo": (f / "new", "demo", "--out", f / "new"),
    }  # fmt: skip


def may_not_read(s, f, mine):
    """Commands on what is closed to us, and the place that the sentence must name."""
    quick, train = ("--resamples", 0, "--out", mine / "e"), ("train", f / "toy.yaml", "--local", "--set")
    sweep = ("sweep", f / "toy.yaml", *SPACE, "--set", "runtime.name=s", "--set")
    return {
        "prepare": (s / "m.parquet", "prepare", s / "m.parquet", "--local", "--out", mine / "p", *SIZES),
        "prepare, out": (s / "prepared", "prepare", f / "m.parquet", "--local", "--out", s / "prepared", *SIZES),
        "train": (s / "toy.yaml", "train", s / "toy.yaml", "--local"),
        "train, shards": (s / "shards", *train, f"runtime.shards={s}/shards", "--set", "runtime.name=d"),
        "train, clip": (s / "clip", *train, f"model.clip={s}/clip", "--set", "runtime.name=d"),
        "train, out": (s / "toy", *train, f"runtime.output={s}"),
        "train, init": (s / "toy", *train, f"train.init_from={s}/toy", "--set", "runtime.name=d"),
        "evaluate": (s / "toy", "evaluate", s / "toy", "--shards", f / "shards", *quick),
        "evaluate, shards": (s / "shards", "evaluate", f / "toy", "--shards", s / "shards", *quick),
        "zero-shot": (s / "clip", "zero-shot", s / "clip", "--shards", f / "shards", *quick),
        "index": (s / "toy", "index", s / "toy", "--shards", f / "shards", "--out", mine / "i"),
        "index, out": (s / "index", "index", f / "toy", "--shards", f / "shards", "--out", s / "index"),
        "search": (s / "index", "search", s / "index", "a red square"),
        "sweep, out": (s, *sweep, f"runtime.output={s}"),
        "sweep, shards": (s / "shards", *sweep, f"runtime.shards={s}/shards", "--dry-run"),
        "compare": (s / "sweep", "compare", s / "sweep"),
        "compare, two": (s / "toy", "compare", s / "toy", s / "toy"),
        "inspect": (s / "prepared", "inspect", s / "prepared"),
        "shards": (s / "dataset", "shards", "merge", s / "dataset", "--out", mine / "m"),
        "shards, stat": (s / "dataset", "shards", "stat", s / "dataset"),
        "cache": (s / "cache", "cache", "--folder", s / "cache"),
        "config": (s / "toy.yaml", "config", s / "toy.yaml"),
        "make-clip": (s / "m.parquet", "make-clip", s / "m.parquet", "--out", mine / "c"),
        "import": (s / "clip", "import-checkpoint", s / "clip/model.safetensors", "--out", mine / "c"),
        "diagnose": (s / "toy", "diagnose", s / "toy", "--shards", f / "shards", "--out", mine / "d"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def came(place):
    """What came of every command, all in one process; and whether the files that it may not change are as before."""
    foreign, mine = place / "foreign", place / "mine"
    tables = {
        "foreign": may_not_write(foreign, mine),
        "read-only": {name: row for name, row in may_not_write(place / "read-only", mine).items() if name in QUICK},
        "secret": may_not_read(place / "secret", foreign, mine),
    }
    commands = {f"read {name}": command for name, command in may_read(foreign, mine).items()}
    commands |= {f"{kind} {name}": row[1:] for kind, table in tables.items() for name, row in table.items()}
    dry = ("train", foreign / "toy.yaml", "--local", "--dry-run", "--json", "--set", f"runtime.output={foreign}")
    before = [files(place / kind) for kind in tables]
    found = run_unprivileged(commands | {"dry": (*dry, "--set", "runtime.name=new")}, mine)
    return tables, found, before == [files(place / kind) for kind in tables]


def test_what_belongs_to_somebody_else_can_be_read(came):
    for name, (code, _, said) in came[1].items():
        if name.startswith("read "):
            assert code == 0, (name, said)
            assert not any("Traceback" in line or "warning" in line for line in said), (name, said)


@pytest.mark.parametrize("kind", ["foreign", "read-only", "secret"])
def test_a_place_without_rights_is_one_sentence_with_the_path(came, kind):
    tables, found, _ = came
    for name, row in tables[kind].items():
        code, _, said = found[f"{kind} {name}"]
        assert code in (2, 3), (name, said)
        assert re.match(f"error: .*{re.escape(str(row[0]))}.*(Permission denied|is not readable)", said[-1]), name
        assert re.search(r"(choose another place, or ask its owner for access|that you can write)\.$", said[-1]), name
        assert sum("error:" in line for line in said) == 1, (name, said)
        assert not any("Traceback" in line for line in said), (name, said)


def test_nothing_without_rights_is_changed(came):
    assert came[2]


def test_a_dry_run_says_that_a_run_could_not_be_written(came, place):
    code, out, _ = came[1]["dry"]
    assert code == 0
    assert f"Cannot write {place}/foreign/new: Permission denied." in json.loads(out)["problems"]


def test_whether_a_folder_can_be_written_is_known_without_making_it(tmp_path):
    refuse_unwritable(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []

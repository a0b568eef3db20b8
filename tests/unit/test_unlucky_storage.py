"""Runs, indexes, evaluations and sweeps where storage fails, fills up or holds something else: nothing is lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlalchemy.exc import OperationalError

from gare.cli import main
from gare.common.errors import InputError, RunError
from gare.common.files import file_digest
from gare.common.occupied import lies_in, refuse_part
from gare.config.tree import to_yaml, with_overrides
from gare.evaluation.results import refuse_another
from gare.launch.local import fit_local
from gare.runs.state import read_state
from gare.training import loop
from tests import toy
from tests.failing import ERRORS, failing_reads, full_from
from tests.unit.tune.made_sweep import trial, write
from tune import study


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_clip, toy_shards):
    """A finished run, evaluated and indexed; one stopped in its second epoch; a sweep; a cache with the shards."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("whole", "part"):
        places = ("train.epochs=1", "runtime.checkpoint_every_steps=3")
        config = toy.toy_config(toy_clip, toy_shards, folder / "runs", *places)
        config = with_overrides(config, {"runtime.name": name})
        (folder / f"{name}.yaml").write_text(to_yaml(config))
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            if name == "part":
                patch.setattr(loop, "train_step", _killed_at(3, loop.train_step))
            fit_local(config, quiet=True)
    for command in (*commands(folder, toy_shards).values(),):
        if command[1] in ("evaluate", "index"):
            with pytest.raises(SystemExit):
                main([str(word) for word in command[1:]])
    write(folder / "sweep", [trial(0, 50.0), trial(1, 40.0, **{"train.seed": 1})])
    return folder


def _killed_at(step, true_step=None):
    def train_step(*arguments, **more):
        if arguments[5] >= step or true_step is None:
            raise Killed
        return true_step(*arguments, **more)

    return train_step


def files(folder):
    """Digest by name, and the names that are left of half-written files."""
    found = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): file_digest(path) for path in found if ".locks" not in path.parts}


@pytest.fixture
def copy(made, tmp_path):
    """A copy of all of it."""
    return shutil.copytree(made, tmp_path / "made")


def commands(folder, shards):
    """What reads and writes runs, evaluations, indexes, sweeps and copies, after the folder whose reads are to fail."""
    whole, quick = folder / "runs/whole", ("--shards", shards, "--resamples", 0)
    cached = ("--set", f"runtime.cache={folder}/cache", "--set", "runtime.cache_mounted=true")
    return {
        "train": ("runs/part", "train", folder / "part.yaml", "--local", "--set", f"runtime.output={folder}/runs"),
        "evaluate": ("runs/whole", "evaluate", whole, *quick, "--save-scores"),
        "index": ("runs/whole", "index", whole, "--shards", shards, "--out", folder / "index"),
        "search": ("index", "search", folder / "index", "a red square", "--checkpoint", whole),
        "compare-runs": ("runs/whole", "compare-runs", whole, whole, "--resamples", 100, "--out", folder / "ab.json"),
        "compare": ("sweep", "compare", folder / "sweep"),
        "copied shards": ("cache", "evaluate", whole, *quick, "--out", folder / "results", "--overwrite", *cached),
    }


@pytest.mark.parametrize("which", commands(Path(), ""))
def test_an_error_at_any_read_is_one_sentence_and_changes_nothing(copy, toy_shards, monkeypatch, call, which):
    below, *command = commands(copy, toy_shards)[which]
    reads, before = reads_of(monkeypatch, call, command, copy, below), files(copy)
    assert reads > 0
    for number in range(reads):
        with monkeypatch.context() as patch:
            failing_reads(patch, number, ERRORS["EIO"], below=copy / below)
            code, said = call(*command)
        assert code == 3, said
        assert re.fullmatch(r"error: Cannot (read|use) \S+.*Input/output error.*", said[-1]), number
        assert files(copy) == before, number


def reads_of(monkeypatch, call, command, folder, below):
    """How many reads a command makes, done in a copy of the folder that takes its place, and goes again."""
    kept = shutil.copytree(folder, folder.with_name("kept"))
    with monkeypatch.context() as patch, suppress(Killed):
        counted = failing_reads(patch, 10**9, ERRORS["EIO"], below=folder / below)
        patch.setattr(loop, "train_step", _killed_at(0))  # training alone reads no more of what was there
        assert call(*command)[0] == 0
    shutil.rmtree(folder)
    kept.rename(folder)
    return counted.calls


@pytest.mark.parametrize("which", ["train", "evaluate", "index", "compare"])
def test_a_disk_that_fills_anywhere_costs_nothing_and_the_same_command_goes_on(
    copy, toy_shards, monkeypatch, call, which
):
    command = commands(copy, toy_shards)[which][1:]
    before, kept = files(copy), shutil.copytree(copy, copy.with_name("kept"))
    with monkeypatch.context() as patch:
        counted = full_from(patch, 10**9)
        assert call(*command)[0] == 0
    wanted, last = files(copy), counted[0] - 1
    for number in (0, last // 2, last):
        shutil.rmtree(copy)
        shutil.copytree(kept, copy)
        with monkeypatch.context() as patch:
            full_from(patch, number)
            code, said = call(*command)
        assert code == 3, said
        assert re.fullmatch(r"error: Cannot write \S+: No space left on device[.:] .*", said[-1]), number
        now = files(copy)
        if which == "train":
            state = read_state(copy / "runs/part")
            assert f"runs/part/checkpoints/{state.last}/checkpoint.json" in now
        elif number < last:  # at the last one all is in its place, and only that this is on disk is not known
            assert {name: now[name] for name in now if "/.building-" not in name} == before
        assert call(*command)[0] == 0
        assert same(files(copy), wanted)


def same(one, other):
    """Whether there are the same files, and of those that do not say when they were made the same ones."""
    one, other = ({re.sub(r"-g\d+\.", "-g.", name): digest for name, digest in found.items()} for found in (one, other))
    timeless = {name for name in one if name.endswith(("model.safetensors", "vectors.safetensors", ".parquet"))}
    return one.keys() == other.keys() and all(one[name] == other[name] for name in timeless)


OCCUPIED = {
    "a training run": "runs/whole",
    "a checkpoint": "runs/whole/checkpoints/epoch-0001",
    "a CLIP model": "runs/whole/checkpoints/epoch-0001/clip",
    "a search index": "index",
    "a sweep": "sweep",
    "prepared shards": "cache/shards/[0-9a-f]*",
    "an evaluation": "results",
}


def test_what_lies_in_a_folder_is_known(made, tmp_path):
    found = {kind: [lies_in(folder) for folder in made.glob(place)] for kind, place in OCCUPIED.items()}
    assert found == {kind: [kind] for kind in OCCUPIED}
    assert lies_in(tmp_path) is lies_in(tmp_path / "none") is lies_in(made / "whole.yaml") is None


@pytest.mark.parametrize("which", ["evaluate", "zero-shot", "index", "make-clip", "prepare", "train", "compare"])
def test_no_command_writes_over_what_another_one_made(copy, toy_clip, toy_shards, call, which):
    (copy / "m.csv").write_text("video_id,uri,split,captions\na,a.mp4,train,a cat\n")
    whole, quick = copy / "runs/whole", ("--shards", toy_shards, "--resamples", 0)
    command, own = {
        "evaluate": (("evaluate", whole, *quick), "an evaluation"),
        "zero-shot": (("zero-shot", toy_clip, *quick), "an evaluation"),
        "index": (("index", whole, "--shards", toy_shards), "a search index"),
        "make-clip": (("make-clip", copy / "m.csv"), None),
        "prepare": (("prepare", copy / "m.csv", "--local"), "prepared shards"),
        "train": (("train", copy / "whole.yaml", "--local"), "a training run"),
        "compare": (("compare", copy / "sweep"), "a sweep"),
    }[which]
    before = files(copy)
    for kind, pattern in OCCUPIED.items():
        place = next(copy.glob(pattern))
        if kind != own:
            run = ("--set", f"runtime.output={place.parent}", "--set", f"runtime.name={place.name}")
            code, said = call(*command, *(run if which == "train" else ("--out", place)))
            assert code == 3, said
            assert re.search(f"holds ({kind}, which is never|other things and)", said[-1]), said
            assert files(copy) == before


def trained_again(run, place):
    """A copy of a run whose checkpoint has other weights."""
    weights = next(shutil.copytree(run, place).glob("checkpoints/*/model.safetensors"))
    tensors = load_file(weights)
    tensors["clip.logit_scale"] = np.asarray(tensors["clip.logit_scale"] + 0.25, np.float32)
    save_file(tensors, weights)
    return place


def test_an_evaluation_of_something_else_is_replaced_only_when_asked(copy, toy_shards, call):
    evaluate = ("--shards", toy_shards, "--resamples", 0, "--no-report", "--out", copy / "results")
    whole, other = copy / "runs/whole", trained_again(copy / "runs/whole", copy / "runs/other")
    assert call("evaluate", whole, *evaluate, "--overwrite")[0] == 0
    assert call("evaluate", whole, *evaluate)[0] == 0
    before = files(copy)
    for different, says in (
        ((whole, "--split", "dev"), "split test"),
        ((whole, "--frames", "middle"), "frames all"),
        ((other,), "checkpoint /"),
    ):
        code, said = call("evaluate", *different, *evaluate)
        assert (code, f"holds another evaluation ({says}" in said[-1]) == (3, True)
        assert files(copy) == before
    assert call("evaluate", whole, "--split", "dev", *evaluate, "--overwrite")[0] == 0
    assert json.loads((copy / "results/metrics.json").read_text())["split"] == "dev"
    assert not (copy / "results/report.html").exists()  # it was of the one that is replaced


def test_an_evaluation_is_of_its_weights_wherever_their_checkpoint_lies(copy, toy_shards, call, monkeypatch):
    evaluate = ("--shards", toy_shards, "--resamples", 0, "--no-report", "--out", copy / "new")
    monkeypatch.chdir(copy)
    assert call("evaluate", "runs/whole", *evaluate)[0] == 0
    monkeypatch.chdir(copy / "runs")
    assert call("evaluate", "whole", *evaluate)[0] == 0
    shutil.copytree(copy / "runs/whole", copy / "runs/copied")
    assert call("evaluate", "copied", *evaluate)[0] == 0
    shutil.rmtree(copy / "runs/whole")
    trained_again(copy / "runs/copied", copy / "runs/whole")
    monkeypatch.chdir(copy)
    before = files(copy)
    code, said = call("evaluate", "runs/whole", *evaluate)
    assert (code, "holds another evaluation (checkpoint " in said[-1]) == (3, True)
    assert files(copy) == before


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"checkpoint": "elsewhere"}, True),
        ({"weights_digest": "other"}, False),
        ({"config_digest": "other"}, False),
        ({"config_digest": None}, True),
        ({"weights_digest": None}, True),  # of an older version: its place tells
        ({"weights_digest": None, "checkpoint": "elsewhere"}, False),
        ({"weights_digest": None, "config_digest": "other"}, False),
    ],
)
def test_the_model_of_an_evaluation_is_told_by_digests(tmp_path, changes, same):
    identity = {"checkpoint": "a", "split": "test", "frames": "all", "dataset_digest": "d"}
    identity |= {"weights_digest": "w", "config_digest": "c"}
    (tmp_path / "metrics.json").write_text(json.dumps(identity | changes))
    with nullcontext() if same else pytest.raises(InputError, match="another evaluation"):
        refuse_another(tmp_path, identity, overwrite=False)
    refuse_another(tmp_path, identity | {"checkpoint": str(tmp_path.parent)}, overwrite=False)  # a part of the model


def test_an_evaluation_does_not_take_the_place_of_one_on_another_dataset(copy, toy_shards, tmp_path, call):
    other = toy.make_shards(tmp_path / "other", {"train": 8, "dev": 4, "test": 6}, seed=1)
    before, command = files(copy), ("evaluate", copy / "runs/whole", "--resamples", 0, "--shards")
    code, said = call(*command, other)
    digest = json.loads((toy_shards / "dataset.json").read_text())["digest"]
    assert (code, f"holds another evaluation (dataset_digest {digest})" in said[-1]) == (3, True)
    assert "give another --out, or replace it with --overwrite" in said[-1]
    assert files(copy) == before
    assert call(*command, other, "--out", copy / "beside")[0] == 0
    assert call(*command, other, "--overwrite")[0] == 0
    assert call(*command, toy_shards)[0] == 3


@pytest.mark.parametrize("name", ["report.html", "metrics.json"])
def test_a_sheet_does_not_take_the_place_of_the_results_beside_it(copy, toy_shards, call, name):
    new = copy / "new"
    code, said = call("evaluate", copy / "runs/whole", "--shards", toy_shards, "--out", new, "--sheet", new / name)
    assert (code, "is a file of the results; give the picture another name" in said[-1]) == (3, True)
    assert not new.exists()


PARTS = ("ranks.parquet", "report.html", "best.yaml", "comparison.json", "comparison.html")


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_evaluations_and_comparisons_are_not_written_over(tmp_path, name):
    (tmp_path / name).touch()
    refuse_part(tmp_path / name)  # anyone's file of that name
    for beside in ("metrics.json", "comparison.json", "comparison.html"):
        (tmp_path / beside).touch()
    with pytest.raises(InputError, match="is a part of an evaluation, never written over"):
        refuse_part(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "runs/whole/history.jsonl",
        "runs/whole/checkpoints/epoch-0001/model.safetensors",
        "runs/whole/checkpoints/epoch-0001/evaluation/test/ranks.parquet",
    ],
)
def test_no_picture_or_table_is_written_over_a_part_of_a_run(copy, toy_shards, call, name):
    before, whole = files(copy), copy / "runs/whole"
    for command in (
        ("diagnose", whole, "--shards", toy_shards, "--out", copy / name),
        ("evaluate", whole, "--shards", toy_shards, "--out", copy / "new", "--sheet", copy / name),
        ("compare-runs", whole, whole, "--out", copy / name),
    ):
        code, said = call(*command)
        assert (code, "is a part of a" in said[-1]) == (3, True)
        assert files(copy) == before


@pytest.mark.parametrize("which", ["evaluate", "index"])
def test_too_few_descriptors_are_one_sentence_that_says_what_to_raise(copy, toy_shards, call, which):
    command, before = commands(copy, toy_shards)[which][1:], files(copy)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        code, said = call(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in taken:
            os.close(handle)
    assert code == 3, said
    assert said[-1].endswith("Too many open files: raise the limit of open files (ulimit -n 65536)."), said
    assert files(copy) == before


def test_a_run_whose_record_is_lost_keeps_its_checkpoints(copy, call):
    (copy / "runs/whole/run.json").unlink()
    before = files(copy)
    code, said = call("train", copy / "whole.yaml", "--local", "--set", f"runtime.output={copy}/runs")
    assert (code, "holds checkpoints (epoch-0001), but run.json" in said[-1]) == (3, True)
    assert files(copy) == before


def test_a_search_that_the_disk_does_not_give_is_not_set_aside(tmp_path):
    (tmp_path / "search.db").write_bytes(b"")
    disk = OperationalError("", {}, Exception("disk I/O error"))
    with pytest.raises(RunError, match=r"Cannot use \S+search.db: .*disk I/O error"):
        study._set_aside(tmp_path / "search.db", disk)
    assert [path.name for path in tmp_path.iterdir()] == ["search.db"]

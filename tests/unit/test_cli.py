"""The command line: help to work from, one sentence and a code for every mistake, one JSON object when asked."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import torch

import gare
from gare.cli import cli, main
from gare.common.locks import exclusive_lock
from gare.config.tree import load_config, to_yaml
from gare.launch.local import fit_local
from gare.model.open_clip import KEYS

ROOT = Path(__file__).parents[2]
LINE = "video_id,uri,split,captions\n"


def call(capfd, *arguments):
    """Exit code, standard output and standard error of a command line run here."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return ended.value.code, out, err


def leaves(group, path=()):
    for name, command in group.commands.items():
        yield from leaves(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]


COMMANDS = list(leaves(cli))


@pytest.fixture(scope="module")
def place(tmp_path_factory, toy_clip, toy_shards):
    """A folder with a trained run, its settings, its index, and files that are not what they should be."""
    from tests import toy

    folder = tmp_path_factory.mktemp("place")
    config = toy.toy_config(toy_clip, toy_shards, folder / "runs", "train.epochs=1")
    (folder / "toy.yaml").write_text(to_yaml(config))
    fit_local(config, quiet=True)
    with pytest.raises(SystemExit):
        main(["index", str(folder / "runs/toy"), "--shards", str(toy_shards), "--out", str(folder / "index")])
    (folder / "folder").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine/thesis.tex").write_text("years of work")
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    (folder / "junk").write_bytes(bytes(range(256)) * 20)
    (folder / "junk.csv").write_bytes(b"\xfe\x00\xff" * 50)
    (folder / "good.csv").write_text(LINE + "a,a.mp4,train,a cat\nb,b.mp4,dev,a dog\n")
    (folder / "columns.csv").write_text("a,b\n1,2\n")
    (folder / "header.csv").write_text(LINE)
    (folder / "cells.csv").write_text(LINE + "a,b\n")
    (folder / "uncaptioned.csv").write_text(LINE + "a,b,train,\n")
    (folder / "seconds.csv").write_text("video_id,uri,split,captions,start_s\na,b,train,c,nan\n")
    (folder / "surrogate.csv").write_text(LINE + 'a,b,train,"[""\\ud800""]"\n')
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "typo.yaml").write_text("train: {epoch: 3}\n")
    (folder / "broken.yaml").write_text("train: [\n")
    (folder / "date.yaml").write_text("train: {epochs: 2020-13-45}\n")
    (folder / "deep.yaml").write_text("[" * 3000)
    (folder / "a name with spaces é.csv").write_text("")
    return folder


# {p}: the folder above; {s}: the shards; {c}: the CLIP model.
MISTAKES = [
    # A command line that makes no sense.
    ("serch x", 2, "No such command 'serch'. (Did you mean one of: 'search', 'serve'?)"),
    ("search", 2, "Missing argument 'INDEX'. gare search --help says more."),
    ("train a b", 2, "unexpected extra argument"),
    ("train --epochs 3", 2, "No such option"),
    ("corpus --out {p}/new --videos many", 2, "'many' is not a valid integer"),
    ("search {p}/index x --top 0", 2, "0 is not in the range"),
    ("make-clip {p}/good.csv --out {p}/new --patch-size 0", 2, "'--patch-size'"),
    # Settings.
    ("config {p}/none.yaml", 2, "There is no config file"),
    ("config {p}/folder", 2, "Cannot read the config file"),
    ("config {p}/junk", 2, "Cannot read the config file"),
    ("config {p}/broken.yaml", 2, "broken.yaml line 2 is not valid YAML"),
    ("config {p}/list.yaml", 2, "not a mapping of settings"),
    ("config {p}/typo.yaml", 2, "There is no setting train.epoch. Did you mean train.epochs?"),
    ("config {p}/date.yaml", 2, "a value that cannot be read"),
    ("config {p}/deep.yaml", 2, "a value that cannot be read"),
    ("config --set train.epoch=3", 2, "Did you mean train.epochs?"),
    ("config --set train.epochs", 2, "not of the form key=value"),
    ("config --set runtime.name=../../x", 2, "its name cannot lead out of it"),
    ("config --set train.seed=99999999999999999999", 2, "train.seed"),
    # Corpora and manifests.
    ("corpus --out {p}/new --videos 3", 3, "at least 12 videos"),
    ("corpus --out {p}/mine --videos 12", 3, "holds other things than a corpus"),
    ("corpus --out {p}/empty --videos 12", 3, "is a file"),
    ("manifest csv {p}/none.csv --out {p}/m", 3, "There is no file"),
    ("manifest csv {p}/folder --out {p}/m", 3, "Is a directory"),
    ("manifest csv {p}/empty --out {p}/m", 3, "is empty"),
    ("manifest csv {p}/junk.csv --out {p}/m", 3, "is not UTF-8 text"),
    ("manifest jsonl {p}/none --out {p}/m", 3, "There is no file"),
    ("manifest jsonl {p}/folder --out {p}/m", 3, "Is a directory"),
    ("manifest jsonl {p}/good.csv --out {p}/m", 3, "line 1 is not a JSON object"),
    ("manifest jsonl {p}/junk --out {p}/m", 3, "is not UTF-8 text"),
    ("manifest parquet {p}/none --out {p}/m", 3, "There is no file"),
    ("manifest parquet {p}/folder --out {p}/m", 3, "Is a directory"),
    ("manifest parquet {p}/junk --out {p}/m", 3, "is not a Parquet file"),
    ("manifest parquet {p}/empty --out {p}/m", 3, "is not a Parquet file"),
    ("manifest folder {p}/none --out {p}/m", 3, "There is no folder"),
    ("manifest folder {p}/good.csv --out {p}/m", 3, "There is no folder"),
    ("manifest folder {p}/mine --out {p}/m", 3, "holds no video file"),
    ("manifest folder {p} --out {p}/m --split x --carve dev=0.5", 3, "one of the two"),
    ("inspect {p}/none", 3, "There is no folder"),
    ("inspect {p}/good.csv", 3, "There is no folder"),
    ("inspect {p}/mine", 3, "it is no folder of gare prepare"),
    ("manifest csv {p}/columns.csv --out {p}/m", 3, "has no column video_id, uri, captions; its columns are a, b"),
    ("manifest csv {p}/header.csv --out {p}/m", 3, "has no rows"),
    ("manifest csv {p}/cells.csv --out {p}/m", 3, "line 2 has 2 cells, and not 4 as the header"),
    ("manifest csv {p}/uncaptioned.csv --out {p}/m", 3, "has a caption"),
    ("manifest csv {p}/seconds.csv --out {p}/m", 3, "'nan' is not a number of seconds"),
    ("manifest csv {p}/surrogate.csv --out {p}/m", 3, "not valid Unicode"),
    ("manifest csv {p}/good.csv --out {p}/m --carve dev=2", 3, "share between 0 and 1"),
    ("manifest csv {p}/good.csv --out {p}/m --columns x", 3, "NAME=VALUE"),
    ("manifest csv {p}/good.csv --out {p}/m --root {p}/none", 3, "There is no folder"),
    ("manifest csv {p}/good.csv --out {p}/good.csv", 3, "is the file to read"),
    ("manifest csv {p}/good.csv --out {p}/folder", 3, "it is a folder"),
    ("manifest csv {p}/good.csv --out {p}/pipe", 3, "it is a device or pipe"),
    ("manifest csv {p}/good.csv --out {p}/empty/m", 3, "Cannot write"),
    ("manifest csv {p}/good.csv --out {p}/{long}", 3, "File name too long"),
    ("manifest csv {p}/good.csv --out s3://bucket/m", 3, "out is s3://bucket/m; it has to be a path on this machine"),
    ("manifest csv {p}/good.csv --out file:///m", 3, "out is file:///m; it has to be a path on this machine"),
    ("prepare {p}/none --out {p}/new", 3, "There is no manifest"),
    ("prepare {p}/junk --out {p}/new", 3, "is not a Parquet file"),
    ("prepare {p}/empty --out {p}/new", 3, "is not a Parquet file"),
    ("prepare {p}/header.csv --out {p}/new", 3, "no rows"),
    ("prepare {p}/good.csv --out {p}/empty", 3, "is a file"),
    ("prepare {p}/good.csv --out {p}/new --set prepare.crp=3", 2, "Did you mean prepare.crop?"),
    ("make-clip {p}/none --out {p}/new", 3, "There is no manifest"),
    ("make-clip {p}/good.csv --out {p}/new --split test", 3, "has no captions"),
    ("make-clip {p}/good.csv --out {p}/new --image-size 65", 2, "multiple of the patch size"),
    ("make-clip {p}/good.csv --out {p}/mine", 3, "holds other things"),
    # Training.
    ("train {p}/none.yaml --local", 2, "There is no config file"),
    ("train {p}/list.yaml --local", 2, "not a mapping"),
    ("train {p}/toy.yaml --local --shards {p}/none", 3, "There is no folder"),
    ("train {p}/toy.yaml --shards {p}/folder", 3, "gare prepare did not finish there"),
    ("train {p}/toy.yaml --local --set runtime.shards=null", 2, "No shards are named"),
    ("train {p}/toy.yaml --local --set data.train_split=none", 3, "its splits are: dev, test, train"),
    ("train {p}/toy.yaml --local --set train.global_batch=64 --set runtime.name=n", 3, "less than one batch"),
    ("train {p}/toy.yaml --local --set train.epochs=2", 2, "holds another experiment (train.epochs differ)"),
    ("train {p}/toy.yaml --local --set model.clip={p}/folder --set runtime.name=n", 3, "Cannot load a CLIP model"),
    ("train {p}/toy.yaml --local --set runtime.output={p}/empty --set runtime.name=n", 3, "Cannot write"),
    ("train {p}/toy.yaml --local --set data.words=99 --set runtime.name=n", 2, "16 text positions"),
    # What comes of training.
    ("evaluate {p}/none --shards {s}", 3, "There is no folder"),
    ("evaluate {p}/folder --shards {s}", 3, "is not a checkpoint: it has no config.yaml"),
    ("evaluate {p}/runs/toy --shards {p}/none", 3, "There is no folder"),
    ("evaluate {p}/runs/toy --shards {s} --split none", 3, "its splits are: dev, test, train"),
    ("evaluate {p}/runs/toy --shards {s} --out {p}/empty", 3, "Cannot write"),
    ("evaluate {p}/runs/toy --shards {s} --out gs://bucket/e", 3, "out is gs://bucket/e; it has to be a path"),
    ("evaluate {p}/runs/toy --shards {s} --sheet {p}/folder", 3, "it is a folder"),
    ("evaluate {p}/runs/toy --shards {s} --split train --query-bank 4", 3, "the split that is evaluated"),
    ("evaluate {p}/runs/toy --shards {s} --ties best", 2, "'best' is not one of"),
    ("evaluate {p}/runs/toy --shards {s} --resamples -1", 2, "'--resamples'"),
    ("evaluate {p}/runs/toy --shards {s} --set model.increment=none", 2, "is part of what was trained"),
    ("zero-shot {p}/none --shards {s} --out {p}/new", 3, "Cannot load a CLIP model"),
    ("zero-shot {c} --shards {p}/none --out {p}/new", 3, "There is no folder"),
    ("zero-shot {c} --shards {s} --split none --out {p}/new", 3, "its splits are: dev, test, train"),
    ("zero-shot {c} --shards {s} --out {p}/new --set data.words=99", 2, "16 text positions"),
    ("zero-shot {c} --shards {s} --out {p}/new --set train.epochs=3", 2, "is part of training"),
    ("zero-shot {c} --shards {s} --out {p}/empty", 3, "Cannot write"),
    ("index {p}/runs/toy --shards {s} --out {p}/mine", 3, "holds other things"),
    ("index {p}/runs/toy --shards {s} --out {p}/empty", 3, "it is a file"),
    ("search {p}/none x", 3, "is not an index"),
    ("search {p}/folder x", 3, "is not an index"),
    ("search {p}/index x --checkpoint {p}/none", 3, "There is no folder"),
    ("search {p}/index x --checkpoint {c}", 2, "made with other weights"),
    ("compare {p}/none", 3, "There is no sweep"),
    ("compare {p}/runs/toy", 3, "is not a sweep; to compare two evaluations, name both"),
    ("sweep {p}/toy.yaml", 2, "sweep.space is empty"),
    ("sweep {p}/none.yaml", 2, "There is no config file"),
]


@pytest.mark.parametrize(("line", "code", "says"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_a_mistake_is_one_sentence_and_a_code(capfd, place, toy_shards, toy_clip, line, code, says):
    names = {"p": place, "s": toy_shards, "c": toy_clip, "long": "x" * 300}
    ended, out, err = call(capfd, *(word.format(**names) for word in line.split()))
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "Unexpected" not in err
    assert (ended, out) == (code, "")
    assert (place / "mine/thesis.tex").is_file()


@pytest.mark.parametrize("line", ["serch", "search", "config --set x", "evaluate {p}/none --shards {s}", "train"])
def test_a_mistake_with_json_is_one_json_object(capfd, place, toy_shards, line):
    ended, out, err = call(capfd, *line.format(p=place, s=toy_shards).split(), "--json")
    assert ended > 0
    assert json.loads(out).keys() == {"error"}
    assert out.count("\n") == 1
    assert json.loads(out)["error"] in err


def test_a_query_of_nothing_and_paths_of_any_script_are_one_sentence(capfd, place):
    assert call(capfd, "search", place / "index", "  ")[::2] == (
        3,
        "error: The query is empty; give a sentence in quotes.\n",
    )
    ended, _, err = call(capfd, "manifest", "csv", place / "a name with spaces é.csv", "--out", place / "m")
    assert (ended, err) == (3, f"error: {place}/a name with spaces é.csv is empty.\n")
    ended, _, err = call(capfd, "config", "two\nlines \x1b[31mred")
    assert (ended, err) == (2, "error: There is no config file two lines \\x1b[31mred; give the path of a YAML file.\n")


def test_more_answers_than_videos_are_all_videos(capfd, place):
    ended, out, _ = call(capfd, "search", place / "index", "a red square é", "--top", 100, "--json")
    assert ended == 0
    assert [hit["rank"] for hit in json.loads(out)["hits"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_help_is_enough_to_work_from(capfd, path, command):
    ended, out, _ = call(capfd, *path, "--help")
    assert ended == 0
    text = " ".join(out.split())
    assert f"gare {' '.join(path)} " in text.replace("Usage: ", "", 1) or path == ("demo",)
    for parameter in command.params:
        name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.make_metavar(None)
        assert name.strip("[]") in out
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} is not explained"
        else:
            for word in re.findall(r"[A-Z]+", name):
                assert len(re.findall(rf"\b{word}\b", text)) > 1, f"{word} is not explained"
    assert "Example" in out or path == ("demo",)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_the_examples_of_the_help_hold(path, command):
    examples = [line.split("#")[0].split() for line in (command.help or "").splitlines() if "  gare " in f" {line}"]
    for words in examples:
        config = next((word for word in words if word.startswith("configs/")), None)
        settings = [after for word, after in itertools.pairwise(words) if word == "--set"]
        of_clip = [text for text in settings if text.startswith("clip.")]  # what an import may be told of a CLIP
        assert {text.partition("=")[0] for text in of_clip} <= set(KEYS)
        load_config(ROOT / config if config else None, [text for text in settings if text not in of_clip])


def test_no_command_shows_the_commands(capfd):
    ended, out, err = call(capfd)
    assert (ended, out) == (2, "")
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", err.partition("\nData:\n")[2], re.MULTILINE)
    assert listed == list(cli.commands)


def test_debug_shows_the_traceback(capfd, place):
    _, out, err = call(capfd, "evaluate", place / "none", "--shards", place, "--debug", "--json")
    assert "Traceback (most recent call last)" in err
    assert "resolve_checkpoint" in err
    assert json.loads(out)["error"].startswith("There is no folder")


def test_an_error_nobody_foresaw_is_a_sentence_too(capfd, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr("gare.config.tree.load_config", fail)
    assert call(capfd, "config") == (1, "", "error: Unexpected ZeroDivisionError: one (--debug shows where).\n")


@pytest.mark.parametrize(
    "says", ["unable to open shared memory: Too many open files (24)", "Too many open files. The run is whole."]
)
def test_too_few_descriptors_are_known_from_words_in_the_midst_of_others(capfd, monkeypatch, says):
    def fail(*_):
        raise RuntimeError(says)

    monkeypatch.setattr("gare.config.tree.load_config", fail)
    assert "raise the limit of open files" in call(capfd, "config")[2]


def test_prints_of_other_processes_do_not_reach_the_json(capfd, monkeypatch):
    def noisy(*_):
        os.system("echo from a child")  # noqa: S605
        print("from here")  # noqa: T201
        raise KeyboardInterrupt

    monkeypatch.setattr("gare.config.tree.load_config", noisy)
    ended, out, err = call(capfd, "config", "--json")
    assert ended == 130
    assert json.loads(out) == {"error": "Interrupted; the same command continues where it can."}
    assert "from a child" in err
    assert "from here" in err


class Bomb:
    """A pickle that leaves a file behind where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def damage(name, how):
    return pytest.param(name, how, id=f"{name}-{how}")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        damage("model.safetensors", "cut"),
        damage("model.safetensors", "junk"),
        damage("model.safetensors", "removed"),
        damage("config.yaml", "junk"),
        damage("config.yaml", "empty"),
        damage("clip/config.json", "cut"),
        damage("clip/config.json", "list"),
        damage("clip/tokenizer.json", "cut"),
        damage("clip/tokenizer.json", "removed"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(capfd, place, toy_shards, tmp_path, name, how):
    shutil.copytree(place / "runs/toy/checkpoints/epoch-0001", tmp_path / "ck")
    path = tmp_path / "ck" / name
    content = {"cut": path.read_bytes()[:100], "junk": bytes(range(256)), "list": b"[]", "empty": b""}
    path.unlink() if how == "removed" else path.write_bytes(content[how])
    ended, out, err = call(capfd, "evaluate", tmp_path / "ck", "--shards", toy_shards)
    assert (ended, out, err.count("\n")) == (3, "", 1)
    assert "Unexpected" not in err


@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_a_malicious_trainer_state_is_refused_and_not_executed(capfd, place, tmp_path, protocol):
    run = shutil.copytree(place / "runs/toy", tmp_path / "runs/toy")
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(values | {"finished": False, "epoch": 0, "step": 0}))
    trainer, trace = run / "checkpoints/epoch-0001/trainer.pt", tmp_path / "executed"
    if protocol == "torch":
        torch.save(Bomb(trace), trainer)
    else:
        trainer.write_bytes(pickle.dumps(Bomb(trace)))
    ended, _, err = call(capfd, "train", place / "toy.yaml", "--local", "--set", f"runtime.output={tmp_path}/runs")
    assert (ended, err.count("\n")) == (3, 1)
    assert "refused" in err
    assert not trace.exists()


def test_a_malicious_clip_model_is_refused_and_not_executed(capfd, place, toy_clip, tmp_path):
    clip, trace = shutil.copytree(toy_clip, tmp_path / "clip"), tmp_path / "executed"
    (clip / "model.safetensors").unlink()
    (clip / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    sets = [f"model.clip={clip}", f"runtime.output={tmp_path}"]
    ended, _, err = call(capfd, "train", place / "toy.yaml", "--local", *(a for s in sets for a in ("--set", s)))
    assert (ended, err.count("\n")) == (3, 1)
    assert "refused" in err
    assert not trace.exists()


def test_a_clip_model_whose_weights_do_not_fit_is_refused_not_drawn_at_random(capfd, place, toy_clip, tmp_path):
    clip = shutil.copytree(toy_clip, tmp_path / "clip")
    settings = (clip / "config.json").read_text()
    (clip / "config.json").write_text(settings.replace('"hidden_size": 64', '"hidden_size": 128'))
    sets = [f"model.clip={clip}", f"runtime.output={tmp_path}"]
    ended, _, err = call(capfd, "train", place / "toy.yaml", "--local", *(a for s in sets for a in ("--set", s)))
    assert (ended, err.count("\n")) == (3, 1)
    assert "of its config.json" in err


def test_shards_of_another_size_say_what_to_prepare(capfd, place, toy_shards, tmp_path):
    shards = shutil.copytree(toy_shards, tmp_path / "shards")
    values = json.loads((shards / "dataset.json").read_text())
    values["recipe"] |= {"crop": 16, "short_side": 16}
    (shards / "dataset.json").write_text(json.dumps(values))
    ended, _, err = call(capfd, "evaluate", place / "runs/toy", "--shards", shards)
    assert ended == 2
    assert "--set prepare.crop=32" in err


def test_shards_with_a_damaged_manifest_are_one_sentence(capfd, place, toy_shards, tmp_path):
    shards = shutil.copytree(toy_shards, tmp_path / "shards")
    for content in ("", "{", "[]", "null", '{"schema_version": 1}'):
        (shards / "dataset.json").write_text(content)
        ended, _, err = call(capfd, "evaluate", place / "runs/toy", "--shards", shards)
        assert (ended, err.count("\n")) == (3, 1)
        assert "is damaged" in err


def test_an_index_whose_checkpoint_moved_or_changed_says_so(capfd, place, tmp_path):
    index = shutil.copytree(place / "index", tmp_path / "index")
    values = json.loads((index / "index.json").read_text())
    moved = shutil.copytree(values["checkpoint"], tmp_path / "moved")
    (index / "index.json").write_text(json.dumps(values | {"checkpoint": str(tmp_path / "gone")}))
    ended, _, err = call(capfd, "search", index, "a red square")
    assert ended == 3
    assert "give its place with --checkpoint" in err
    assert call(capfd, "search", index, "a red square", "--checkpoint", moved, "--json")[0] == 0
    (index / "index.json").write_text(json.dumps(values | {"weights_sha256": "0" * 64}))
    ended, _, err = call(capfd, "search", index, "a red square")
    assert ended == 2
    assert "made with other weights" in err
    for content in ("", "[]", "null", json.dumps(values | {"segments": [{}]}), json.dumps(values | {"checkpoint": 3})):
        (index / "index.json").write_text(content)
        ended, _, err = call(capfd, "search", index, "a red square")
        assert (ended, err.count("\n")) == (3, 1)
        assert "Unexpected" not in err


def test_videos_without_captions_are_left_out_of_training_and_can_be_searched(capfd, place, tmp_path):
    from tests import toy

    shards = toy.make_shards(tmp_path / "bare", {"train": 9, "dev": 4, "gallery": 5}, uncaptioned="gallery")
    some = toy.make_shards(tmp_path / "some", {"train": 9, "dev": 4}, uncaptioned="train3")
    places = ["--set", f"runtime.output={tmp_path}", "--set", "train.epochs=1"]
    ended, _, err = call(capfd, "train", place / "toy.yaml", "--local", "--shards", some, *places)
    assert ended == 0
    assert "1 of 9 videos of train have no caption and are left out." in err
    assert (
        call(capfd, "index", place / "runs/toy", "--shards", shards, "--split", "gallery", "--out", tmp_path / "i")[0]
        == 0
    )
    ended, out, _ = call(capfd, "search", tmp_path / "i", "a red square", "--json")
    assert (ended, len(json.loads(out)["hits"])) == (0, 5)
    ended, _, err = call(capfd, "evaluate", place / "runs/toy", "--shards", shards, "--split", "gallery")
    assert ended == 3
    assert "has no captions to query with" in err


def test_a_first_attempt_that_trained_nothing_does_not_hold_its_name(capfd, place, toy_clip, tmp_path):
    train = ["train", place / "toy.yaml", "--local", "--set", f"runtime.output={tmp_path}"]
    assert call(capfd, *train, "--set", f"model.clip={place}/folder")[0] == 3
    assert call(capfd, *train, "--set", f"model.clip={toy_clip}")[0] == 0


def test_a_run_that_another_process_trains_is_left_alone(capfd, place):
    take = "from gare.common.locks import exclusive_lock as lock"
    program = f"import sys; {take}\nwith lock(sys.argv[1]): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", program, place / "runs/toy"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"1\n"
    ended, _, err = call(capfd, "train", place / "toy.yaml", "--local")
    other.communicate(b"\n")
    assert (ended, err.count("\n")) == (4, 1)
    assert "Another process is at work in" in err
    with exclusive_lock(place / "runs/toy"):
        pass


def test_training_interrupted_ends_with_130_and_the_same_command_goes_on(capfd, place, tmp_path):
    train = ["train", place / "toy.yaml", "--local", "--set", f"runtime.output={tmp_path}", "--set", "train.epochs=30"]
    program = "import sys; from gare.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, train), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "toy/checkpoints/epoch-0002").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out) == {"error": "Interrupted; the same command continues where it can."}
    assert err.splitlines()[-1] == "error: Interrupted; the same command continues where it can."
    assert "Traceback" not in err
    ended, out, _ = call(capfd, *train, "--json")
    assert ended == 0
    assert json.loads(out)["resumed_from"] >= 1


@pytest.mark.parametrize("namesake", ["tune.py", "tune/__init__.py", "pipelines/__init__.py"])
def test_a_foreign_package_of_our_name_is_named_and_not_run(tmp_path, namesake):
    foreign = tmp_path / namesake
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise SystemExit('the foreign package ran')")
    root = Path(gare.__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    done = subprocess.run(
        [sys.executable, "-m", "gare", "config"], env=environment, cwd=root.parent, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert f"error: {foreign} is found instead of this program's own package" in " ".join(done.stderr.split())


def test_a_message_of_foreign_values_is_shortened_escaped_and_keeps_its_secrets(capfd):
    code, _, said = call(capfd, "config", "--set", f"train.\x1b[2J{'z' * 50_000}=1")
    assert code == 2
    assert len(said) < 3000
    assert "zzz..." in said
    assert "\x1b[2J" not in said
    _, _, said = call(capfd, "config", "--set", "train.epochs=https://me:secret@host/?token=abc")
    assert "secret" not in said
    assert "abc" not in said

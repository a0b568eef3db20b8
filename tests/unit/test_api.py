"""The functions of the package: results as the commands print them, errors, Ctrl-C, threads, notebooks."""

from __future__ import annotations

import errno
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import gare
from gare.cli import main
from gare.common import console
from gare.common.storage import Folder
from gare.config import Config
from gare.config.tree import load_config, to_yaml
from tests import toy
from tests.unit.tune.made_sweep import trial, write
from tests.videos import make_video

FUNCTIONS = ("compare", "evaluate", "index", "prepare", "search", "sweep", "train")


@pytest.fixture(scope="module")
def place(tmp_path_factory, toy_clip, toy_shards):
    """A folder with a manifest, a trained run, two evaluations of it and an index, all made by the functions."""
    folder = tmp_path_factory.mktemp("api")
    video = make_video(folder / "a.mp4", frames=8, fps=4)
    (folder / "manifest.csv").write_text(f"video_id,uri,split,captions\na,{video},train,a bar moves\n")
    config = toy.toy_config(toy_clip, toy_shards, folder / "runs", "train.epochs=1")
    (folder / "toy.yaml").write_text(to_yaml(config))
    made = SimpleNamespace(folder=folder, shards=toy_shards, config=config)
    made.prepared = gare.prepare(folder / "manifest.csv", folder / "shards", local=True, prepare={"unit_videos": 2})
    made.run = gare.train(config, local=True)
    made.evaluated = gare.evaluate(made.run.directory, toy_shards, resamples=200)
    made.middle = gare.evaluate(made.run.directory, toy_shards, frames="middle", report=False, resamples=0)
    made.index = gare.index(made.run.directory, toy_shards, out=folder / "index")
    return made


def command(capfd, *arguments):
    """The JSON object that a command prints."""
    capfd.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*map(str, arguments), "--json"])
    return json.loads(capfd.readouterr().out)


def plain(value):
    return json.loads(json.dumps(value, default=str))


def test_every_public_name_is_listed_found_and_described():
    assert set(gare.__all__) <= set(dir(gare))
    assert [name for name in gare.__all__ if not (getattr(gare, name).__doc__ or name == "__version__")] == []
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        gare.trian  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_typed_and_its_docstring_has_every_argument(name):
    function = getattr(gare, name)
    parameters = inspect.signature(function).parameters
    assert [p for p in parameters.values() if p.annotation is p.empty] == []
    assert [p for p in parameters if f" {p}: " not in function.__doc__.replace("*", "")] == []
    assert "Raises:" in function.__doc__
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_results_are_what_the_commands_print(capfd, place):
    run, shards = place.run.directory, place.shards
    again = command(
        capfd, "prepare", place.folder / "manifest.csv", "--out", place.folder / "shards", "--local",
        "--set", "prepare.unit_videos=2",
    )  # fmt: skip
    report = place.prepared
    assert (again["out"], again["totals"], again["splits"]) == (str(report.out), report.totals, report.splits)
    trained = command(capfd, "train", place.folder / "toy.yaml", "--local")
    assert trained == plain(asdict(place.run)) | {"already_finished": True}
    evaluated = command(capfd, "evaluate", run, "--shards", shards, "--resamples", 200)
    assert evaluated | {"evaluated": ""} == plain(place.evaluated.as_json()) | {"evaluated": ""}
    assert place.evaluated.metrics["t2v/R@1"] == evaluated["t2v/R@1"]
    assert {name.partition("/")[2] for name in place.evaluated.metrics} == {
        "R@1", "R@5", "R@10", "R@50", "MdR", "MnR",
    }  # fmt: skip
    assert place.evaluated.report == place.evaluated.folder / "report.html"
    assert place.middle.report is None
    assert place.middle.intervals == {}
    found = command(capfd, "search", place.folder / "index", "a red square", "--top", 3)
    assert found["hits"] == plain([asdict(hit) for hit in gare.search(place.index, "a red square", 3)])


def test_an_index_searches_as_made_and_as_opened(place):
    made = gare.search(place.index, "a red square left", k=4)
    assert made == gare.search(place.folder / "index", "a red square left", k=4)
    assert [hit.rank for hit in made] == [1, 2, 3, 4]
    assert {hit.video_id for hit in made} <= {f"test{n}" for n in range(6)}
    assert made[0].uri == f"/videos/{made[0].video_id}.mp4"
    assert len(place.index) == len(gare.search(place.index, "a red square", k=2**80)) == 6
    assert gare.search(place.index, "a red square", k=np.int64(2)) == gare.search(place.index, "a red square", k=2)
    assert repr(place.index).startswith("SearchIndex(folder=")
    assert len(repr(place.index)) < 500
    with pytest.raises(FrozenInstanceError):
        made[0].score = 1.0


def test_a_comparison_is_what_the_command_prints(capfd, place, tmp_path):
    sides = (place.run.directory, place.middle.folder)
    found = gare.compare(*sides, resamples=200, out=tmp_path / "api.json")
    assert command(capfd, "compare", *sides, "--resamples", 200) == plain(found.as_json())
    assert json.loads((tmp_path / "api.json").read_text()) == plain(found.as_json())
    sweep = write(tmp_path / "weights", [trial(0, 40.0), trial(1, 50.0, **{"train.seed": 1})])
    ranked = gare.compare(sweep)
    assert command(capfd, "compare", sweep) == plain(ranked.as_json())
    assert ranked.best.name == "trial-001"


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ({"train": {"epochs": 3}, "data.words": 7}, {}),
        (Config(), {"set": {"train.epochs": 3, "data": {"words": 7}}}),
        (None, {"set": ["train.epochs=3", "data.words=7"]}),
        ({"data.words": np.int32(7)}, {"set": "train.epochs=3"}),
        ({"data.words": torch.tensor(7)}, {"train": {"epochs": np.int64(3)}}),
        (None, {"train": {"epochs": 3}, "set": {"data.words": 7}}),
        ({"train.epochs": 9}, {"train.epochs": 3, "data": {"words": 7}}),
    ],
)
def test_settings_come_from_every_form_of_a_source_and_of_overrides(source, changes):
    from gare.api.settings import resolve

    found = resolve(source, changes.pop("set", ()), changes, shards="here")
    assert found == load_config(None, ["train.epochs=3", "data.words=7", "runtime.shards=here"])


def test_a_tuple_is_as_good_as_a_list():
    assert load_config(None, {"train.freeze": ()}) == load_config(None, ["train.freeze=[]"])


def test_a_folder_that_prepare_returns_keeps_the_options_of_its_address():
    from gare.api.settings import resolve

    address = "s3://bucket/shards?endpoint_override=127.0.0.1:1"
    assert resolve(None, shards=Folder.at(address)).runtime.shards == address


MISTAKES = [
    (lambda _: gare.train({"train": {"epoch": 3}}), gare.ConfigError, "Did you mean train.epochs"),
    (lambda p: gare.train(p.config, train={"epochs": 0}), gare.ConfigError, "train.epochs"),
    (lambda p: gare.train(p.config, epochs=3), gare.ConfigError, "no setting epochs. Did you mean train.epochs"),
    (lambda p: gare.train(p.config, train=3), gare.ConfigError, "train is a section"),
    (lambda p: gare.train(p.folder / "none.yaml"), gare.ConfigError, "no config file"),
    (lambda p: gare.train(p.config, local=True, extend=0), gare.InputError, "extend is 0"),
    (lambda p: gare.train(p.config, local=True, shards=p.folder), gare.InputError, "did not finish there"),
    (lambda p: gare.prepare(p.folder / "no", p.folder / "new", local=True), gare.InputError, "no manifest"),
    (lambda p: gare.prepare(p.folder / "manifest.csv", "x", changed="no"), gare.InputError, "refuse, redo, ignore"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, "none"), gare.InputError, "its splits are"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, ties="no"), gare.InputError, "ties is 'no'"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, resamples=-1), gare.InputError, "resamples is -1"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, model={"head": "xpool"}), gare.ConfigError, "was trained"),
    (lambda p: gare.index(p.run.directory, p.shards, out=p.folder / "runs"), gare.InputError, "holds other things"),
    (lambda p: gare.search(p.folder, "x"), gare.InputError, "is not an index"),
    (lambda p: gare.search(p.index, " "), gare.InputError, "query is empty"),
    (lambda p: gare.search(p.index, "x", k=0), gare.InputError, "k is 0"),
    (lambda p: gare.search(p.index, "x", k=True), gare.InputError, "k is True"),
    (lambda p: gare.search(p.index, "x", k=2.5), gare.InputError, "k is 2.5; it has to be a whole number"),
    (lambda p: gare.search(p.index, "x", first_stage=2.5), gare.InputError, "first_stage is 2.5"),
    (lambda p: gare.search(p.index, 3), gare.InputError, "query is 3; it has to be text"),
    (lambda p: gare.search(p.index, "x", checkpoint=p.folder), gare.InputError, "is open already"),
    (lambda p: gare.search(p.index, "x", where="red"), gare.InputError, "where is 'red'; it has to be texts by name"),
    (lambda p: gare.search(p.index, "x", where={"colour": 3}), gare.InputError, "where is of type dict"),
    (lambda p: gare.search(p.index, like=3), gare.InputError, "like is 3"),
    (lambda _: gare.maintain(None), gare.InputError, "index is None"),
    (
        lambda p: gare.maintain(p.folder / "index", delete="test0"),
        gare.InputError,
        "delete is 'test0'",
    ),
    (lambda p: gare.index(p.run.directory, p.shards, out="x", queries="red"), gare.InputError, "queries is 'red'"),
    (lambda _: gare.search(None, "x"), gare.InputError, "index is None; it has to be a path"),
    (lambda p: gare.prepare(p.folder / "manifest.csv", None, local=True), gare.InputError, "out is None"),
    (lambda p: gare.prepare(p.folder / "manifest.csv", "", local=True), gare.InputError, "out is ''"),
    (lambda _: gare.prepare([], "x", local=True), gare.InputError, "manifest is of type list"),
    (lambda _: gare.prepare("x", "x", retry_faild=True), gare.ConfigError, "Did you mean retry_failed"),
    (lambda p: gare.train(p.config, shards=3), gare.InputError, "shards is 3"),
    (lambda _: gare.train(3), gare.ConfigError, "settings are of type int"),
    (lambda p: gare.train(p.config, set=None), gare.ConfigError, "override is None"),
    (lambda p: gare.train(p.config, set=[3]), gare.ConfigError, "override is 3"),
    (lambda p: gare.train(p.config, trian={"epochs": 3}), gare.ConfigError, "trian.epochs. Did you mean train.epochs"),
    (lambda p: gare.train(p.config, extend=1.5), gare.InputError, "extend is 1.5"),
    (lambda p: gare.evaluate(p.run, p.shards), gare.InputError, "checkpoint is of type RunSummary"),
    (lambda p: gare.evaluate(p.run.directory, None), gare.InputError, "shards is None"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, None), gare.InputError, "split is None"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, resamples=2.5), gare.InputError, "resamples is 2.5"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, query_bank=1.5), gare.InputError, "query_bank is 1.5"),
    (lambda p: gare.index(p.run.directory, p.shards, out=None), gare.InputError, "out is None"),
    (lambda p: gare.index(p.run.directory, p.shards, out="s3://b/i"), gare.InputError, "out is s3://b/i; it has to be"),
    (lambda p: gare.evaluate(p.run.directory, p.shards, out="s3://b/e"), gare.InputError, "on this machine"),
    (lambda p: gare.compare([p.folder, p.folder]), gare.InputError, "places is of type list"),
    (lambda _: gare.compare("a", "b", split=None), gare.InputError, "split is None"),
    (lambda _: gare.compare("a", "b", seed=1.5), gare.InputError, "seed is 1.5"),
    (lambda _: gare.load_model(None), gare.InputError, "checkpoint is None"),
    (lambda _: gare.compare(), gare.InputError, "0 folders"),
    (lambda _: gare.compare("a", "b", baseline="x"), gare.InputError, "baseline is for a sweep"),
    (lambda _: gare.compare("a", "b", level=2), gare.InputError, "level is 2"),
    (lambda p: gare.compare(p.run.directory), gare.InputError, "is not a sweep"),
    (lambda _: gare.sweep(), gare.ConfigError, "one of the two"),
    (lambda p: gare.sweep(p.config), gare.ConfigError, "sweep.space is empty"),
    (lambda p: gare.sweep(p.config, section=p.folder / "toy.yaml"), gare.ConfigError, "a sweep file holds"),
    (lambda p: gare.sweep(resume=p.folder / "none"), gare.InputError, "no sweep"),
]


@pytest.mark.parametrize(("mistake", "kind", "says"), MISTAKES, ids=[says for *_, says in MISTAKES])
def test_a_mistake_raises_an_error_of_one_sentence(place, mistake, kind, says):
    with pytest.raises(kind, match=says) as raised:
        mistake(place)
    assert isinstance(raised.value, gare.GareError)
    assert "\n" not in str(raised.value)
    assert not (place.folder / "new").exists()


def test_a_file_that_the_system_refuses_is_an_input_error(place, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(place.folder / "x"))

    monkeypatch.setattr("gare.api.search.write_index", full)
    with pytest.raises(gare.InputError, match="x: No space left on device") as raised:
        gare.index(place.run.directory, place.shards, out=place.folder / "full")
    assert isinstance(raised.value.__cause__, OSError)


def test_a_foreign_package_of_our_name_is_named_and_not_run(tmp_path):
    (tmp_path / "tune.py").write_text("raise SystemExit('the foreign package ran')")
    code = "import gare\ntry:\n    gare.sweep\nexcept gare.GareError as error:\n    print(error)"
    path = os.pathsep.join([str(tmp_path), str(Path(gare.__file__).parent.parent)])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True)
    assert f"{tmp_path}/tune.py is found instead of" in done.stdout.decode()


def test_an_interrupted_training_raises_and_the_same_call_continues(place, tmp_path):
    changes = {"train.epochs": 15, "runtime.output": str(tmp_path), "runtime.name": "long"}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before = threading.active_count()

    def interrupt():
        deadline = time.monotonic() + 120
        while not (tmp_path / "long/checkpoints/epoch-0002").is_dir() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        gare.train(place.config, local=True, set=changes)
    thread.join()
    assert threading.active_count() == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = gare.train(place.config, local=True, set=changes)
    assert again.resumed_from >= 1
    assert again.epochs == 15


def test_the_functions_work_in_a_thread(place, tmp_path):
    found = []

    def work():
        run = gare.train(place.config, local=True, runtime={"output": str(tmp_path)})
        found.append(gare.evaluate(run.directory, place.shards, report=False, resamples=0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].metrics == place.evaluated.metrics


class Stream(io.StringIO):
    """A kernel's standard error: no terminal, but it says that it is one."""

    def isatty(self):
        return True


class Kernel:
    """A notebook's front end: ``lines`` that change in place, each as its texts, and what is printed."""

    def __init__(self, monkeypatch, *, kernel=True):
        self.lines, self.printed = [], Stream()
        if kernel:
            monkeypatch.setattr(sys, "stderr", self.printed)
            monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels do
        shell = SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()
        modules = {
            "ipykernel": ModuleType("ipykernel"),
            "IPython": SimpleNamespace(get_ipython=lambda: shell),
            "IPython.display": SimpleNamespace(display=self.display),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.lines.append([data["text/plain"]])
        return self

    def update(self, data, *, raw):
        assert raw
        self.lines[-1].append(data["text/plain"])


def work(steps):
    with console.meter("videos", steps) as progress:
        for done in range(1, steps + 1):
            progress.update(done, "0 failed\x1b[2J")
    console.note("done")
    console.warn("look at this")


def test_progress_in_a_notebook_is_one_line_that_changes_in_place(monkeypatch):
    monkeypatch.setattr(console, "NOTEBOOK_SECONDS", 0)
    kernel = Kernel(monkeypatch)
    work(3)
    (line,) = kernel.lines
    assert [text.partition(" (")[0] for text in line] == ["", "videos: 1/3", "videos: 2/3", "videos: 3/3"]
    assert kernel.printed.getvalue() == "done\nwarning: look at this\n"
    assert not any("\r" in text or "\x1b" in text for text in line)


@pytest.mark.parametrize("notebook", [False, True])
def test_quiet_silences_notes_and_progress_and_keeps_warnings(capfd, monkeypatch, notebook):
    monkeypatch.setenv("GARE_QUIET", "1")
    kernel = Kernel(monkeypatch, kernel=notebook)
    work(3)
    assert kernel.lines == []
    assert kernel.printed.getvalue() + capfd.readouterr().err == "warning: look at this\n"


def test_ipython_on_a_terminal_is_no_notebook(capfd, monkeypatch):
    kernel = Kernel(monkeypatch, kernel=False)
    work(1)
    assert kernel.lines == []
    assert capfd.readouterr().err.splitlines()[0].startswith("videos: 1/1")

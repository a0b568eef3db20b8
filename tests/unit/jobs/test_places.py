"""What a submitted command may name, and what it is told otherwise."""

from __future__ import annotations

import json

import pytest

from gare.cli import cli
from gare.common.errors import ConfigError, InputError
from gare.config.tree import load_config, to_yaml
from gare.jobs.places import SUBMITTED, Place, check_places, refuse_foreign_paths, seen_here
from gare.jobs.submitted import understand


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/a.yaml").write_text(to_yaml(load_config()))
    (tmp_path / "shards").mkdir()
    (tmp_path / "manifest.parquet").touch()
    return tmp_path


def check(*words, root=None):
    line = understand(words, cli)
    check_places(line.places, root)
    return line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "configs/a.yaml", "--shards", "shards"], "--shards is shards, which is on this machine"),
        (["train", "configs/a.yaml", "--shards", "/mnt/s"], "runtime.output is runs"),
        (["train", "configs/a.yaml", "--set", "runtime.shards=none"], "runtime.shards is none, which is relative"),
        (["train", "configs/a.yaml", "--set", "model.clip=./clip", "--dry-run"], "model.clip is clip"),
        (["train", "configs/a.yaml", "--set", "train.init_from=/r", "--set", "runtime.root=~/x"], "a home folder"),
        (["prepare", "manifest.parquet", "--out", "/mnt/s"], "MANIFEST is manifest.parquet, which is on this machine"),
        (["prepare", "/mnt/manifest.parquet", "--out", "s"], "--out is s, a path relative to the job's own folder"),
        (["prepare", "~/manifest.parquet", "--out", "/mnt/s"], "a home folder"),
        (["shards", "merge", "/mnt/a", "b", "--out", "/mnt/c"], "is b, which is relative"),
        (["evaluate", "runs/a", "--shards", "/mnt/s"], "is runs/a, which is relative"),
        (["sweep", "--resume", "weights"], "--resume is weights, which is relative"),
        (["train", "configs/a.yaml", "--set", "runtime.storage=copies"], "runtime.storage is copies"),
    ],
)
def test_a_path_that_no_cluster_can_know_is_refused_with_its_name_and_what_to_do(here, words, named):
    with pytest.raises(InputError) as refused:
        check(*words)
    assert named in str(refused.value)
    assert "--root" in str(refused.value)
    if "a home folder" not in named:
        check(*words, root="/mnt/gare")


@pytest.mark.parametrize(
    "words",
    [
        ["config", "configs/a.yaml"],
        ["config"],
        ["config", "--diff", "configs/a.yaml", "configs/a.yaml"],
        ["train", "configs/a.yaml", "--shards", "s3://b/s", "--set", "runtime.output=/mnt/runs"],
        ["train", "configs/a.yaml", "--set", "runtime.root=/mnt", "--set", "runtime.shards=shards"],
        ["train", "configs/a.yaml", "--shards", "s3://b/s", "--set", "runtime.storage=s3://b/runs"],
        ["sweep", "--resume", "/mnt/runs/weights"],
        ["prepare", "s3://b/manifest.parquet", "--out", "s3://b/shards", "--config", "configs/a.yaml"],
        ["gare", "zero-shot", "openai/clip-vit-base-patch32", "--shards", "/mnt/s", "--out", "/mnt/z"],
    ],
)
def test_addresses_absolute_paths_and_config_files_are_fine(here, words):
    check(*words)


@pytest.mark.parametrize("root", ["gare", "./x", "s3://bucket/x"])
def test_a_root_is_an_absolute_folder(root):
    with pytest.raises(InputError, match="--root"):
        check_places([], root)


def test_config_files_get_a_name_in_the_package_wherever_they_are(here):
    (here / "sub").mkdir()
    elsewhere = here.parent / f"{here.name}-else.yaml"
    elsewhere.write_text("{}")
    line = understand(["config", "--diff", str(elsewhere), f"../{elsewhere.name}"], cli)
    assert set(line.configs) == {f"submitted/{elsewhere.name}", f"submitted/2/{elsewhere.name}"}
    assert line.words == ["config", "--diff", f"submitted/{elsewhere.name}", f"submitted/2/{elsewhere.name}"]
    line = understand(["prepare", "/m", "--out", "/o", "--config=./configs/a.yaml"], cli)
    assert line.words[-1] == "--config=submitted/configs/a.yaml"
    elsewhere.write_text("sweep: {trials: 3}")
    words = ["sweep", "configs/a.yaml", "--sweep", str(elsewhere), "--shards", "/s", "--set", "runtime.output=/r"]
    assert set(understand(words, cli).configs) == {"submitted/configs/a.yaml", f"submitted/{elsewhere.name}"}


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ([], InputError, "Name the command"),
        (["tran"], ConfigError, "No such command 'tran'. gare --help"),
        (["manifest"], ConfigError, "missing. gare manifest --help"),
        (["train"], ConfigError, "CONFIG'. gare train --help says more."),
        (["train", "configs/a.yaml", "--shard"], ConfigError, "No such option '--shard'"),
        (["train", "configs/none.yaml"], ConfigError, "no config file"),
        (["train", "configs/a.yaml", "--set", "train.epoch=3"], ConfigError, "train.epochs"),
        (["submit", "--", "config"], InputError, "run it here"),
        (["jobs"], InputError, "run it here"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(here, words, error, says):
    with pytest.raises(error) as refused:
        understand(words, cli)
    assert says in str(refused.value)


def test_the_commands_help_is_shown_and_nothing_sent(capsys):
    with pytest.raises(SystemExit) as ended:
        understand(["train", "--help"], cli)
    assert ended.value.code == 0
    assert "Train the experiment in CONFIG" in capsys.readouterr().out


def test_a_job_refuses_what_is_only_where_it_came_from(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    places = [
        Place("--shards", str(tmp_path / "shards"), "input"),
        Place("model.clip", "/not/there/either", "input"),
        Place("--out", str(tmp_path), "output"),
    ]
    text = seen_here(places)
    assert json.loads(text)["paths"] == {"--shards": str(tmp_path / "shards")}
    monkeypatch.setenv(SUBMITTED, text)
    refuse_foreign_paths()
    (tmp_path / "shards").rmdir()
    with pytest.raises(InputError, match=r"--shards is .*, which is on .*, where the job came from, and not on"):
        refuse_foreign_paths()

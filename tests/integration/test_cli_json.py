"""``--json`` on the commands that start Ray: one JSON object on standard output, whoever prints what."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gare.config.tree import to_yaml

pytestmark = pytest.mark.ray
PROGRAM = "from gare.cli import main; main()"


def one_object(*arguments):
    """The only line that a command wrote to standard output."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("}\n")
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout), done.stderr


def test_train_on_ray_prints_one_json_object(toy_run, tmp_path):
    (tmp_path / "toy.yaml").write_text(to_yaml(toy_run("train.epochs=1", "runtime.tracking=true")))
    values, err = one_object("train", tmp_path / "toy.yaml")
    assert values["name"] == "toy"
    assert values["epochs"] == 1
    assert "epoch 1: dev" in err


@pytest.mark.slow
def test_sweep_prints_one_json_object(toy_run, tmp_path):
    space = "sweep.space={train.seed: {grid: [1, 2]}}"
    (tmp_path / "toy.yaml").write_text(to_yaml(toy_run(space, "train.epochs=1", "runtime.tracking=true")))
    values, err = one_object("sweep", tmp_path / "toy.yaml")
    assert {trial["status"] for trial in values["trials"]} == {"done"}
    assert "[2/2]" in err

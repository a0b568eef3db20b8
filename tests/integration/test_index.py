"""An index made by actors of Ray, on a small cluster."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import gare
from gare.common.errors import RunError
from gare.launch import ray_index
from gare.model import GareModel
from gare.model.checkpoint import load_checkpoint_config, save_model
from gare.retrieval.folder import read_index_file
from gare.retrieval.media import Kept
from gare.retrieval.model import IndexModel
from gare.retrieval.units import Change
from tests import toy

pytestmark = pytest.mark.ray
QUERIES = [f"{a} {c} square {k} {n}" for a in "abc" for c in toy.COLOURS for k in toy.CORNERS for n in "xy"]


@pytest.fixture
def checkpoint(tmp_path, toy_clip, toy_shards):
    config = toy.toy_config(toy_clip, toy_shards, tmp_path, "model.max_frames=3")
    (tmp_path / "checkpoint").mkdir()
    torch.manual_seed(0)
    save_model(GareModel.from_clip(toy_clip, config.model).eval(), config, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in [*read_index_file(folder).names(), "index.json"]}


def test_two_actors_give_the_bytes_of_one_process(tmp_path, checkpoint, toy_shards, ray_cluster):
    def make(name, **how):
        made = {"stage_above": 0, "queries": QUERIES, "runtime": {"index_workers": 2}}
        return gare.index(checkpoint, toy_shards, "train", out=tmp_path / name, **made, **how)

    assert len(make("here", local=True)) == 18
    assert len(make("ray", local=False)) == 18
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_what_an_actor_cannot_do_ends_the_command_in_a_sentence(tmp_path, checkpoint, toy_shards):
    shards = shutil.copytree(toy_shards, tmp_path / "shards")
    model = IndexModel.load(str(checkpoint), load_checkpoint_config(checkpoint), clip=False)
    source = ray_index.Source.of(model, str(shards))
    change = Change(tmp_path, tmp_path, "train", "float16", Kept(), None)
    task = {"tasks": [json.dumps([["Encode", {"unit": 1}]])]}
    assert ray_index._Actor(source, change)(task) == {"videos": [9], "error": [""]}
    (shards / "shards" / "unit-000001-00.arrow").unlink()
    row = {name: values[0] for name, values in ray_index._Actor(source, change)(task).items()}
    with pytest.raises(RunError, match=r"could not be made: .*unit-000001-00.*The same command continues"):
        list(ray_index._counts(SimpleNamespace(iter_rows=lambda: [row])))
    other = replace(source, weights="0")
    assert "not the same on all nodes" in ray_index._Actor(other, change)(task)["error"][0]

"""An index made by actors of Ray, on a small cluster."""

from __future__ import annotations

import shutil

import pytest
import torch

import gare
from gare.common.errors import RunError
from gare.launch import ray_index
from gare.model import GareModel
from gare.model.checkpoint import save_model
from gare.retrieval.folder import read_index_file
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


def test_two_actors_give_the_bytes_of_one_process_and_go_on_after_one_that_failed(
    tmp_path, checkpoint, toy_shards, ray_cluster, monkeypatch
):
    shards = shutil.copytree(toy_shards, tmp_path / "shards")

    def make(name, **how):
        made = {"stage_above": 0, "queries": QUERIES, "runtime": {"index_workers": 2}}
        return gare.index(checkpoint, shards, "train", out=tmp_path / name, **made, **how)

    assert len(make("here", local=True)) == 18
    shard = shards / "shards" / "unit-000001-00.arrow"
    held, dataset = shard.read_bytes(), ray_index._dataset

    def failing(*work):
        """The actors cannot read the second shard."""
        shard.unlink()
        return dataset(*work)

    with monkeypatch.context() as patch:
        patch.setattr(ray_index, "_dataset", failing)
        with pytest.raises(RunError, match=r"could not be made: .*unit-000001-00.*The same command continues"):
            make("ray", local=False)
    shard.write_bytes(held)
    assert not (tmp_path / "ray/index.json").exists()
    assert len(make("ray", local=False)) == 18
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")

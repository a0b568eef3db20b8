"""Which nodes decode tasks, ranks and trials run on, and nodes that an autoscaler brings."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pyarrow as pa
import pytest

from gare.config.tree import to_yaml
from gare.data.shards import ShardSet
from gare.schema import MANIFEST
from pipelines.manifest.rows import write_manifest
from tests.autoscaled import autoscaled
from tests.videos import make_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for number in range(6):
        video = make_video(tmp_path / f"{number}.mp4", frames=20, gop=10)
        rows.append({"video_id": f"v{number}", "uri": str(video), "split": "train", "captions": ["a bar"]})
    write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


@pytest.mark.timeout(450)
def test_everything_runs_where_labels_gpus_and_zones_say(tmp_path, manifest, toy_run):
    settings = tmp_path / "settings.yaml"
    settings.write_text(to_yaml(toy_run("runtime.device=cpu", "train.epochs=1")))
    command = [sys.executable, "-m", "tests.labelled_cluster", str(tmp_path), str(manifest), str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["decode"] == ["decode"]  # neither the training nodes nor the unlabelled one with a GPU
    assert found["asked"] == ["train-b"]
    assert "not what runtime.decode_on={gare.role: nobody} selects" in found["refused"]
    assert ["train-b", "train-b"] in found["train"]  # the one zone that holds both ranks
    assert not {"decode", "gpu"} & {name for group in found["train"] for name in group}
    trials = {name for group in found["sweep"] for name in group}
    assert {"train-a", "train-b"} <= trials  # a trial in each zone
    assert "decode" not in trials


CPU_NODE = {"resources": {"CPU": 2, "object_store_memory": 80 * 2**20}, "min_workers": 0, "max_workers": 1}
GPU_NODE = {"resources": CPU_NODE["resources"] | {"GPU": 1}, "min_workers": 0, "max_workers": 2}


def roles(environment):
    """What the nodes of the cluster are for, but its head."""
    code = "import ray; ray.init(logging_level='ERROR'); print([n['Labels'].get('gare.role') for n in ray.nodes()])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    return sorted(role for role in ast.literal_eval(done.stdout.splitlines()[-1]) if role)


def run(environment, *words):
    done = subprocess.run(
        [sys.executable, "-m", "gare", *map(str, words)], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.timeout(400)
def test_decoding_and_training_each_bring_their_own_kind_of_node(tmp_path, manifest, toy_run):
    recipe = ("data.frames=2", "prepare.max_frames=2", "prepare.short_side=32", "prepare.crop=32")
    kinds = {
        "gpu_train": GPU_NODE | {"labels": {"gare.role": "train"}},
        "cpu_decode": CPU_NODE | {"labels": {"gare.role": "decode"}},
    }
    with autoscaled(kinds) as environment:
        done = run(environment, "prepare", manifest, "--out", tmp_path / "shards", *(f"--set={one}" for one in recipe))
        assert "autoscaler adds them" in done.stderr
        assert len(ShardSet(tmp_path / "shards").split("train")) == 6
        assert roles(environment) == ["decode"]

        settings = tmp_path / "settings.yaml"
        settings.write_text(to_yaml(toy_run("runtime.device=cpu", "train.epochs=1", "runtime.wait_for_nodes=120")))
        done = run(environment, "train", settings)
        assert "waiting 120 s at most for its autoscaler" in done.stderr
        assert roles(environment) == ["decode", "train"]

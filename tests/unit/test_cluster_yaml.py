"""The cluster file: accepted by Ray's own validator, pinned as the project is, closed to the outside."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from gare.config.yaml import read
from tests.cluster_validator import validate_cluster

ROOT = Path(__file__).parents[2]
START = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def cluster():
    return copy.deepcopy(read(ROOT / "ray_cluster.yaml"))


def pinned(package):
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, f"{package} is not in constraints.txt"
    return found[1]


def starts(cluster):
    return [command for name in START for command in cluster[name] if "ray start" in command]


def test_the_shipped_file_is_what_ray_up_accepts(cluster):
    prepared = validate_cluster(cluster)
    assert prepared["head_node_type"] == "head"
    assert set(prepared["available_node_types"]) == {"head", "cpu_decode", "gpu_train"}


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda c: c["available_node_types"]["gpu_train"].update(gpus=4), "gpus"),
        (lambda c: c["available_node_types"]["gpu_train"].update(min_workers=3, max_workers=2), "gpu_train: min_work"),
        (lambda c: c["available_node_types"]["cpu_decode"].update(min_workers=99, max_workers=99), "max_workers"),
        (lambda c: c.pop("head_node_type"), "head_node_type"),
        (lambda c: c.update(head_node_type="nobody"), "head_node_type"),
        (lambda c: c.update(worker_count=3), "worker_count"),
    ],
)
def test_a_broken_copy_is_refused_by_what_is_wrong(cluster, breaking, message):
    from jsonschema import ValidationError

    breaking(cluster)
    with pytest.raises((ValueError, ValidationError), match=message):
        validate_cluster(cluster)


def test_versions_are_those_of_the_constraints(cluster):
    setup = " ".join(cluster["setup_commands"])
    assert re.search(r"'ray\[[a-z,]+\]==([^']+)'", setup)[1] == pinned("ray")
    assert re.search(r"'torch==([^']+)'", setup)[1] == pinned("torch")
    images = [cluster["docker"]["image"], cluster["available_node_types"]["gpu_train"]["docker"]["worker_image"]]
    assert [image.split(":")[1].split("-")[0] for image in images] == [pinned("ray")] * 2


def test_the_head_takes_no_work_and_decoding_may_be_taken_away(cluster):
    kinds = cluster["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in " ".join(cluster["head_start_ray_commands"])
    assert kinds["cpu_decode"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds["gpu_train"]["node_config"]


def test_nothing_listens_to_the_world(cluster):
    head = " ".join(cluster["head_start_ray_commands"])
    assert re.findall(r"--dashboard-host=(\S+)", head) == ["127.0.0.1"]
    text = (ROOT / "ray_cluster.yaml").read_text()
    for opening in ("0.0.0.0", "CidrIp", "IpPermissions", "--ray-client-server-port", "--publish"):  # noqa: S104
        assert opening not in text, opening


def test_every_node_starts_with_token_authentication_and_a_private_token_file(cluster):
    assert len(starts(cluster)) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts(cluster))
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105 - where it lies, not what it is
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]
    assert "RAY_AUTH_TOKEN=" not in (ROOT / "ray_cluster.yaml").read_text()

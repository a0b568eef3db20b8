"""The cluster files: accepted by Ray's own validator, pinned as the project is, closed to the outside."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gare.common.nodes import DECODE, ROLE, TRAIN
from gare.config.yaml import read
from tests.cluster_validator import validate_cluster

ROOT = Path(__file__).parents[2]
START = ("head_start_ray_commands", "worker_start_ray_commands")
FILES = {"aws": "ray_cluster.yaml", "gcp": "deploy/gcp.yaml", "local": "deploy/on_premise.yaml"}
CLOUDS = ("aws", "gcp")
SETUP = ("setup_commands", "head_setup_commands", "worker_setup_commands")


@pytest.fixture(params=FILES)
def provider(request):
    return request.param


@pytest.fixture
def cluster(provider):
    return copy.deepcopy(read(ROOT / FILES[provider]))


@pytest.fixture
def aws():
    return copy.deepcopy(read(ROOT / FILES["aws"]))


def pins():
    return dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def starts(cluster):
    return [command for name in START for command in cluster[name] if "ray start" in command]


def test_the_shipped_files_are_what_ray_up_accepts(cluster, provider):
    prepared = validate_cluster(cluster)
    assert cluster["provider"]["type"] == provider
    if provider in CLOUDS:
        assert prepared["head_node_type"] == "head"
        assert set(prepared["available_node_types"]) == {"head", "cpu_decode", "gpu_train"}
    else:
        node_type = prepared["available_node_types"]["local.cluster.node"]
        assert node_type["min_workers"] == node_type["max_workers"] == len(cluster["provider"]["worker_ips"])


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
def test_a_broken_copy_is_refused_by_what_is_wrong(aws, breaking, message):
    from jsonschema import ValidationError

    breaking(aws)
    with pytest.raises((ValueError, ValidationError), match=message):
        validate_cluster(aws)


def test_machines_of_your_own_have_no_kinds():
    from click import ClickException

    cluster = read(ROOT / FILES["local"]) | {"available_node_types": {"gpu": {"node_config": {}}}}
    with pytest.raises(ClickException):
        validate_cluster(cluster)


def test_versions_are_those_of_the_constraints(cluster):
    lines = [command for name in SETUP for command in cluster.get(name, []) if "pip install" in command]
    assert all("--constraint ~/gare-ray/constraints.txt" in line for line in lines)
    words = [word for line in lines for word in shlex.split(line)]
    wanted = dict(re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)$", word).groups() for word in words if "==" in word)
    assert {"ray", "torch"} <= set(wanted)
    assert wanted == {name: pins()[name] for name in wanted}
    assert not any(re.search("[<>~]=", word) for word in words)
    kinds = cluster.get("available_node_types", {}).values()
    images = [cluster["docker"]["image"], *(kind["docker"]["worker_image"] for kind in kinds if "docker" in kind)]
    assert {image.partition("-py")[0] for image in images} == {f"rayproject/ray:{pins()['ray']}"}
    assert {image.partition("-")[2].partition("-")[0] for image in images} == {"py311"}


@pytest.mark.parametrize("provider", CLOUDS)
def test_the_head_takes_no_work_and_decoding_may_be_taken_away(provider):
    cluster = read(ROOT / FILES[provider])
    kinds = cluster["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0, "GPU": 0}
    spot = {"aws": {"InstanceMarketOptions": {"MarketType": "spot"}}, "gcp": {"scheduling": [{"preemptible": True}]}}
    assert spot[provider].items() <= kinds["cpu_decode"]["node_config"].items()
    assert not spot[provider].items() <= kinds["gpu_train"]["node_config"].items()
    assert kinds["cpu_decode"]["min_workers"] == 0
    assert kinds["gpu_train"]["min_workers"] > 0  # gare train does not wait for the autoscaler
    assert "GPU" not in kinds["cpu_decode"]["resources"]


@pytest.mark.parametrize("provider", CLOUDS)
def test_kinds_of_nodes_have_the_labels_that_placement_reads(provider):
    from ray._private.label_utils import validate_node_labels

    kinds = read(ROOT / FILES[provider])["available_node_types"]
    assert {name: kind.get("labels", {}) for name, kind in kinds.items()} == {
        "head": {},
        "cpu_decode": {ROLE: DECODE},
        "gpu_train": {ROLE: TRAIN},
    }
    for kind in kinds.values():
        validate_node_labels(kind.get("labels"))


@pytest.mark.parametrize(("gpus", "role"), [(True, TRAIN), (False, DECODE)])
def test_a_machine_of_your_own_labels_itself_by_its_gpus(gpus, role, tmp_path):
    from ray._private.label_utils import parse_node_labels_string

    (start,) = [line for line in read(ROOT / FILES["local"])["worker_start_ray_commands"] if "ray start" in line]
    for name, code in (("nvidia-smi", "exit 0" if gpus else "exit 9"), ("ray", 'for a in "$@"; do echo "$a"; done')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    said = subprocess.run(
        ["/bin/sh", "-c", start], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    ).stdout.split()
    (labels,) = [word.removeprefix("--labels=") for word in said if word.startswith("--labels=")]
    assert parse_node_labels_string(labels) == {ROLE: role}


def test_ranks_fit_the_gpu_nodes_with_a_cpu_each(provider):
    if provider not in CLOUDS:
        pytest.skip("Ray counts what the machines have")
    resources = read(ROOT / FILES[provider])["available_node_types"]["gpu_train"]["resources"]
    assert resources["CPU"] > resources["GPU"] > 0


def test_the_head_starts_with_nothing_to_offer(cluster):
    head = starts(cluster)[0]
    assert "--num-cpus=0 --num-gpus=0" in head


def test_nothing_listens_to_the_world(cluster, provider):
    head = " ".join(cluster["head_start_ray_commands"])
    assert re.findall(r"--dashboard-host=(\S+)", head) == ["127.0.0.1"]
    text = (ROOT / FILES[provider]).read_text()
    for opening in ("0.0.0.0", "CidrIp", "IpPermissions", "--ray-client-server-port", "--publish"):  # noqa: S104
        assert opening not in text, opening


def test_no_node_of_aws_gets_the_group_that_ray_would_open_to_the_world(aws):
    nodes = [kind["node_config"] for kind in aws["available_node_types"].values()]
    assert all(node["SecurityGroupIds"] for node in nodes)
    assert all(node["MetadataOptions"]["HttpTokens"] == "required" for node in nodes)


def test_every_node_starts_with_token_authentication_and_a_private_token_file(cluster, provider):
    assert len(starts(cluster)) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts(cluster))
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105 - where it lies, not what it is
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]
    assert "RAY_AUTH_TOKEN=" not in (ROOT / FILES[provider]).read_text()


def test_places_to_edit_are_three_and_marked(provider):
    assert set(re.findall(r"EDIT (\d)", (ROOT / FILES[provider]).read_text())) == {"1", "2", "3"}


def test_all_files_share_the_folder_at_the_same_path(cluster):
    assert "-v /mnt/gare:/mnt/gare" in cluster["docker"]["run_options"]

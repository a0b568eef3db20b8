"""The KubeRay files: accepted by the operator's own schema, pinned, unprivileged, with the token from a Secret."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import pytest
import yaml  # Ray's; ours takes a minute for a megabyte

import gare
from gare.common.nodes import DECODE, ROLE, TRAIN
from gare.config.yaml import read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
FILES = {"rayjobs": "rayjob.yaml", "rayclusters": "raycluster.yaml"}


@pytest.fixture(scope="module")
def schemas():
    """The operator's schemas, closed to unknown keys; a skip without them, a failure if GARE_REQUIRE_FIXTURES=1."""
    folder = Path(os.environ.get("GARE_FIXTURES", "")) / "kuberay"
    if not folder.is_dir():
        reason = f"there is no {folder} with the operator's schemas (GARE_FIXTURES)"
        if os.environ.get("GARE_REQUIRE_FIXTURES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return {kind: schema(folder / f"ray.io_{kind}.yaml") for kind in FILES}


def schema(path):
    with path.open("rb") as stream:
        definition = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    versions = definition["spec"]["versions"]
    found = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return closed(found)


def closed(node):
    """What the API server does with keys it does not know (it drops them) made an error."""
    if isinstance(node, list):
        return [closed(value) for value in node]
    if not isinstance(node, dict):
        return node
    node = {key: closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        node.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
    return node


def validate(schemas, kind, value):
    from jsonschema import Draft202012Validator

    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:120]}"
        for error in Draft202012Validator(schemas[kind]).iter_errors(value)
    ]


def spec(kind):
    found = read(FOLDER / FILES[kind])["spec"]
    return found["rayClusterSpec"] if kind == "rayjobs" else found


def pods(kind):
    found = spec(kind)
    return [found["headGroupSpec"]["template"], *(group["template"] for group in found["workerGroupSpecs"])]


@pytest.mark.parametrize("kind", FILES)
def test_the_operator_accepts_it(schemas, kind):
    assert validate(schemas, kind, read(FOLDER / FILES[kind])) == []


@pytest.mark.parametrize(
    "breaking",
    [
        lambda s: s.update(headGroup={}),
        lambda s: s.pop("headGroupSpec"),
        lambda s: s["workerGroupSpecs"][0].update(minReplicas="none"),
        lambda s: s["workerGroupSpecs"][0].pop("groupName"),
        lambda s: s["authOptions"].update(mode="password"),
        lambda s: s["headGroupSpec"]["template"]["spec"]["containers"][0].update(imagePullSecret="x"),
        lambda s: s["headGroupSpec"].update(rayStartParams={"num-cpus": 0}),
    ],
)
def test_a_broken_copy_is_refused(schemas, breaking):
    cluster = copy.deepcopy(read(FOLDER / FILES["rayclusters"]))
    breaking(cluster["spec"])
    assert validate(schemas, "rayclusters", cluster) != []


@pytest.mark.parametrize("kind", FILES)
def test_decoding_scales_from_nothing_and_training_is_up(kind):
    found = spec(kind)
    assert found["enableInTreeAutoscaling"] is True
    assert found["headGroupSpec"]["rayStartParams"].items() >= {"num-cpus": "0", "num-gpus": "0"}.items()
    groups = {group["groupName"]: group for group in found["workerGroupSpecs"]}
    assert {name: group["labels"] for name, group in groups.items()} == {
        "cpu-decode": {ROLE: DECODE},
        "gpu-train": {ROLE: TRAIN},
    }
    assert groups["cpu-decode"]["minReplicas"] == 0 < groups["cpu-decode"]["maxReplicas"]
    assert 0 < groups["gpu-train"]["minReplicas"] <= groups["gpu-train"]["maxReplicas"]
    asked = {name: group["template"]["spec"]["containers"][0]["resources"] for name, group in groups.items()}
    assert "nvidia.com/gpu" not in asked["cpu-decode"]["limits"]
    gpus = asked["gpu-train"]["limits"]["nvidia.com/gpu"]
    assert int(groups["gpu-train"]["rayStartParams"]["num-cpus"]) > gpus > 0
    assert all(resources["requests"] == resources["limits"] for resources in asked.values())


def test_the_job_of_a_file_is_a_command_of_gare_that_fits_its_gpus():
    import shlex

    from gare.cli import cli

    job = read(FOLDER / FILES["rayjobs"])["spec"]
    program, command, *words = shlex.split(job["entrypoint"])
    assert program == "gare"
    overrides = cli.commands[command].make_context(command, words).params["overrides"]
    container = job["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]
    assert f"runtime.workers={container['resources']['limits']['nvidia.com/gpu']}" in overrides
    assert job["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("kind", FILES)
def test_images_and_ray_are_of_this_release(kind):
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert spec(kind)["rayVersion"] == pinned
    images = [container["image"] for pod in pods(kind) for container in pod["spec"]["containers"]]
    assert {image.partition("/gare:")[2] for image in images} == {f"{gare.__version__}-{of}" for of in ("cpu", "gpu")}


@pytest.mark.parametrize("kind", FILES)
def test_the_token_comes_from_a_secret_and_nothing_is_published(kind):
    assert spec(kind)["authOptions"] == {"mode": "token", "secretName": "gare-token"}
    assert spec(kind)["headGroupSpec"]["serviceType"] == "ClusterIP"
    text = (FOLDER / FILES[kind]).read_text()
    for opening in ("LoadBalancer", "NodePort", "enableIngress", "hostNetwork", "hostPath", "privileged: true"):
        assert opening not in text, opening


@pytest.mark.parametrize("kind", FILES)
def test_pods_are_unprivileged_and_find_the_shared_folder_at_the_same_path(kind):
    for pod in pods(kind):
        assert pod["spec"]["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 1000}.items()
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounted) == {"/mnt/gare", "/dev/shm"}  # noqa: S108 - in the pod
        assert set(mounted.values()) == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_only_the_head_may_talk_to_kubernetes():
    for kind in FILES:
        head, *workers = pods(kind)
        assert "automountServiceAccountToken" not in head["spec"]  # the autoscaler runs beside it
        assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in workers)


def test_the_store_of_the_heads_state_is_the_one_the_cluster_names():
    service, store = read(FOLDER / "redis.yaml")["items"]
    options = spec("rayclusters")["gcsFaultToleranceOptions"]
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert options["redisAddress"] == f"redis://{name}:{port}"
    assert "gcsFaultToleranceOptions" not in spec("rayjobs")
    (container,) = store["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["valueFrom"] == options["redisPassword"]["valueFrom"]
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+-\w+", container["image"])
    assert store["spec"]["template"]["metadata"]["labels"].items() >= service["spec"]["selector"].items()


def test_the_network_policy_is_for_the_pods_of_these_files():
    policy = read(FOLDER / "network_policy.yaml")["spec"]
    wanted = policy["podSelector"]["matchLabels"].items()
    assert policy["policyTypes"] == ["Ingress"]
    labels = [pod["metadata"]["labels"] for kind in FILES for pod in pods(kind)]
    labels.append(read(FOLDER / "redis.yaml")["items"][1]["spec"]["template"]["metadata"]["labels"])
    assert all(label.items() >= wanted for label in labels)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_no_secret_is_in_a_file(path):
    text = path.read_text()
    assert "kind: Secret" not in text
    assert not re.search(r"(password|token)[\"']?:\s*[\"']?[A-Za-z0-9+/]{12,}", text, re.IGNORECASE)

"""The Dockerfile, as far as it can be checked without building it: pinned, unprivileged, only code in it."""

from __future__ import annotations

import fnmatch
import re
import shlex
from pathlib import Path

import gare
from gare.config.yaml import read

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
IGNORE = [line for line in (ROOT / ".dockerignore").read_text().split("\n") if line and not line.startswith("#")]


def steps():
    """Instructions in order, with continued lines joined and comments left out."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
    joined = lines.replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(instruction):
    return [rest for name, rest in steps() if name == instruction]


def pinned(package):
    return re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def sources():
    for line in arguments("COPY"):
        *files, target = [word for word in shlex.split(line) if not word.startswith("--")]
        yield from ((source, target) for source in files)


def test_every_instruction_is_known():
    assert {name for name, _ in steps()} <= {"ARG", "FROM", "USER", "WORKDIR", "COPY", "RUN", "ENV"}


def test_the_base_is_a_pinned_tag_the_one_the_clusters_name():
    defaults = dict(line.split("=", 1) for line in arguments("ARG"))
    assert arguments("FROM") == ["${BASE}"]
    assert defaults["BASE"] == read(ROOT / "ray_cluster.yaml")["docker"]["image"]
    gpu = re.search(r"--build-arg BASE=(\S+)", TEXT)[1]
    kinds = read(ROOT / "ray_cluster.yaml")["available_node_types"]
    assert gpu == kinds["gpu_train"]["docker"]["worker_image"]
    assert defaults["BASE"].startswith(f"rayproject/ray:{pinned('ray')}-")
    assert "latest" not in TEXT


def test_the_images_it_builds_have_the_names_that_are_used():
    built = set(re.findall(r"-t gare:(\S+)", TEXT))
    assert built == {f"{gare.__version__}-cpu", f"{gare.__version__}-gpu"}


def test_packages_are_the_pinned_ones():
    installs = [part for line in arguments("RUN") for part in line.split("&&") if "pip install" in part]
    assert installs
    for line in installs:
        assert "--constraint constraints.txt" in line
        assert "--no-cache-dir" in line
    versions = dict(re.findall(r"'([a-z]+)(?:\[[a-z,]+\])?==([^']+)'", " ".join(installs)))
    assert versions == {"ray": pinned("ray"), "torch": pinned("torch")}


def test_it_ends_as_a_user_that_is_not_root():
    (user,) = arguments("USER")
    assert int(user) > 0
    assert not re.search(r"\bsudo\b", TEXT)


def test_it_copies_code_alone_all_of_which_is_there_and_not_ignored():
    copied = [source for source, _ in sources()]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in IGNORE
    assert IGNORE[0] == "*"
    assert {line[1:] for line in IGNORE if line.startswith("!")} == set(copied)
    for package in ("gare", "pipelines", "tune"):
        assert package in copied


def test_what_the_package_needs_to_build_is_copied():
    copied = {source for source, _ in sources()}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= copied


def test_no_secret_gets_into_the_image():
    names = [word.partition("=")[0] for line in arguments("ENV") + arguments("ARG") for word in line.split()]
    assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY", name)]
    excluded = [line for line in IGNORE if not line.startswith("!")]
    for name in ("gare/auth_token", "configs/.env", "gare/mlflow.db"):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in excluded[1:]), name
    assert not [url for url in re.findall(r"https?://\S+", TEXT) if "@" in url]

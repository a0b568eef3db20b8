"""What an installed package carries."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import gare

ROOT = Path(__file__).parents[2]
PINNED = (ROOT / "constraints.txt").read_text().splitlines()


def test_the_demo_settings_are_inside_the_package_and_the_same_as_in_configs():
    inside = files("gare") / "configs" / "demo.yaml"
    assert inside.read_text() == (ROOT / "configs" / "demo.yaml").read_text()
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "configs/*.yaml" in package_data["gare"]


def test_the_templates_of_pages_are_inside_the_packages():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {path for name, globs in package_data.items() for glob in globs for path in (ROOT / name).glob(glob)}
    found = {path for name in package_data for path in (ROOT / name).rglob("*.html")}
    assert len(found) >= 4
    assert found <= carried


def test_constraints_pin_every_package_to_a_plain_version():
    assert "torch==2.13.0" in PINNED
    for line in PINNED:
        name, _, version = line.partition("==")
        assert name, line
        assert version, line
        assert not set("+/@ ") & set(line), line


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in PINNED}
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    for requirement in wanted:
        name = re.split("[><=;[]", requirement)[0].lower()
        assert name in pinned or name == project["name"], name  # an extra may take in another


def test_version_is_said_once():
    assert gare.__version__ == "0.1.0"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]

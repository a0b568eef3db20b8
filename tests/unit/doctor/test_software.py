"""Python, packages, codecs and GPUs, each broken on purpose."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from gare.doctor.software import (
    OLDEST_PYTHON,
    PACKAGES,
    Gpus,
    _driver,
    check_codecs,
    check_gpus,
    check_nccl,
    check_packages,
    check_python,
)

ROOT = Path(__file__).parents[3]
TESTED = {name: tested for name, (_, tested) in PACKAGES.items()}
ALL_DECODERS = {"h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "mpeg2video", "mjpeg"}


def reading(versions):
    def installed(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    return installed


def test_an_old_python_is_refused():
    assert check_python((3, 10, 14)).state == "fail"
    assert "3.11" in check_python((3, 10, 14)).fix
    assert check_python((3, 11, 0)).state == "ok"
    assert check_python((4, 0, 0)).state == "ok"


def test_the_versions_are_those_of_pyproject_and_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = {}
    for requirement in project["dependencies"]:
        name = re.split(r"[\[><=]", requirement)[0]
        oldest[name] = re.search(r">=([\d.]+)", requirement)[1]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert {name: (least, pinned[name]) for name, least in oldest.items()} == PACKAGES
    assert project["requires-python"] == ">=" + ".".join(map(str, OLDEST_PYTHON))


def test_tested_packages_are_fine_and_a_local_build_of_one_is_too():
    assert check_packages(reading(TESTED)).state == "ok"
    assert check_packages(reading(TESTED | {"torch": TESTED["torch"] + "+cu130"})).state == "ok"


@pytest.mark.parametrize(
    ("name", "version", "state", "says"),
    [
        ("torch", "2.8.1", "fail", "torch 2.8.1 is older than 2.9"),
        ("torch", "2.10.0", "warn", "tested with"),  # numbers, not letters: 10 > 9
        ("ray", "2.61.0", "fail", "ray 2.61.0 is not 2.60.0"),
        ("ray", "2.60.1", "warn", "tested with 2.60.0"),
        ("numpy", "nonsense", "fail", "older"),
    ],
)
def test_another_version_is_named(name, version, state, says):
    found = check_packages(reading(TESTED | {name: version}))
    assert (found.state, says in found.says, bool(found.fix)) == (state, True, True)


def test_a_missing_package_is_named():
    found = check_packages(reading({name: version for name, version in TESTED.items() if name != "av"}))
    assert (found.state, found.says) == ("fail", "av is missing")


def test_a_missing_codec_is_named():
    assert check_codecs(ALL_DECODERS).state == "ok"
    found = check_codecs(ALL_DECODERS - {"hevc", "libdav1d"} | {"av1"})  # FFmpeg's own av1 decoder needs a GPU
    assert (found.state, found.says) == ("warn", "FFmpeg cannot decode hevc, av1")
    assert check_codecs(ALL_DECODERS - {"h264"}).state == "fail"


def test_the_codecs_of_this_machine_are_all_there():
    assert check_codecs().state == "ok"


def test_gpus_that_torch_does_not_use_are_found():
    assert check_gpus(Gpus((), None, None, None)).state == "ok"  # no GPU at all
    without_cuda = check_gpus(Gpus((), None, "570.1.2", None))
    assert (without_cuda.state, "without CUDA" in without_cuda.says) == ("fail", True)
    old_driver = check_gpus(Gpus((), "13.0", "470.1", None))
    assert (old_driver.state, "driver" in old_driver.fix) == ("fail", True)
    fine = check_gpus(Gpus(("H", "H", "A"), "13.0", "580.2", (2, 29, 7)))
    assert (fine.state, fine.says) == ("ok", "2 x H, 1 x A; CUDA 13.0, driver 580.2")


def test_nccl_is_needed_with_gpus_alone():
    assert check_nccl(Gpus((), None, None, None)).state == "ok"
    assert check_nccl(Gpus(("H",), "13.0", "580.2", None)).state == "fail"
    assert check_nccl(Gpus(("H",), "13.0", "580.2", (2, 29, 7))).says == "2.29.7"


def test_this_machine_can_be_looked_at():
    assert check_gpus(Gpus.here()).says


def test_the_driver_is_read_from_what_the_kernel_says(tmp_path):
    assert _driver(tmp_path / "none") is None
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.172.08  Release\n")
    assert _driver(tmp_path / "version") == "570.172.08"
    (tmp_path / "version").write_text("something else\n")
    assert _driver(tmp_path / "version") == "unknown"

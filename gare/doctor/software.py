"""Check Python, packages against their tested versions, FFmpeg's codecs, GPUs and NCCL."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from gare.config.decoders import DECODERS
from gare.doctor.finding import Finding, fail, ok, warn

OLDEST_PYTHON: Final = (3, 11)

PACKAGES: Final[dict[str, tuple[str, str]]] = {
    "ray": ("2.60", "2.60.0"),
    "torch": ("2.9", "2.13.0"),
    "transformers": ("5.20", "5.23.0"),
    "av": ("17", "18.1.0"),
    "pyarrow": ("22", "25.0.1"),
    "mlflow": ("3.17", "3.17.2"),
    "click": ("8.1", "8.5.1"),
    "ftfy": ("6.3", "6.3.1"),
    "Jinja2": ("3.1", "3.1.6"),
    "matplotlib": ("3.9", "3.11.2"),
    "numpy": ("2", "2.4.6"),
    "optuna": ("5", "5.0.0"),
    "pillow": ("11", "13.0.0"),
    "psutil": ("6", "7.2.2"),
    "pydantic": ("2.11", "2.14.3"),
    "rich": ("13", "15.0.0"),
    "ruamel.yaml": ("0.18", "0.19.1"),
    "safetensors": ("0.6", "0.8.0"),
    "scikit-learn": ("1.5", "1.9.1"),
    "scipy": ("1.13", "1.17.1"),
    "starlette": ("0.47", "1.10.0"),
    "tokenizers": ("0.22", "0.23.3"),
    "uvicorn": ("0.35", "0.54.0"),
}
"""Name to oldest and tested version, from pyproject.toml and constraints.txt; a test compares them."""

EXACT: Final = ("ray",)
"""Packages that must match the tested version up to the second number: all processes of a cluster must agree."""


CODECS: Mapping[str, tuple[str, ...]] = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp8": ("vp8", "libvpx"),
    "vp9": ("vp9", "libvpx-vp9"),
    # FFmpeg's own av1 decoder needs a GPU; these do not.
    "av1": ("libdav1d", "libaom-av1"),
    "mpeg4": ("mpeg4",),
    "mpeg2video": ("mpeg2video",),
    "mjpeg": ("mjpeg",),
}
"""Codec to FFmpeg's decoders that can read it without a GPU; any one is enough."""

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

INSTALL = "python -m pip install --constraint constraints.txt --editable ."


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Check that Python is new enough."""
    said = ".".join(str(part) for part in version)
    if version[:2] < OLDEST_PYTHON:
        oldest = ".".join(str(part) for part in OLDEST_PYTHON)
        return fail(
            "python", f"{said} is older than {oldest}", f"install Python {oldest} or newer and make a new .venv"
        )
    return ok("python", said)


def check_packages(installed: Callable[[str], str] = importlib.metadata.version) -> Finding:
    """Check that the packages are installed, new enough and in the versions this release is tested with."""
    bad, other = [], []
    for name, (oldest, tested) in PACKAGES.items():
        try:
            version = installed(name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{name} is missing")
            continue
        if _numbers(version) < _numbers(oldest):
            bad.append(f"{name} {version} is older than {oldest}")
        elif name in EXACT and _numbers(version)[:2] != _numbers(tested)[:2]:
            bad.append(f"{name} {version} is not {tested}")
        elif version.partition("+")[0] != tested:
            other.append(f"{name} {version} (tested with {tested})")
    if bad:
        return fail("packages", "; ".join([*bad, *other]), INSTALL)
    if other:
        return warn("packages", "; ".join(other), INSTALL)
    return ok("packages", f"{len(PACKAGES)} packages as tested")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release part of a version as comparable numbers."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def check_codecs(available: Collection[str] | None = None) -> Finding:
    """Check that FFmpeg, inside PyAV, can decode common videos. ``available``: names of its decoders."""
    if available is None:
        available = _decoders()
    missing = [codec for codec, decoders in CODECS.items() if not any(name in available for name in decoders)]
    if missing:
        says = f"FFmpeg cannot decode {', '.join(missing)}"
        fix = "python -m pip install --force-reinstall --no-deps --only-binary av av (its wheel brings FFmpeg along)"
        return fail("codecs", says, fix) if "h264" in missing else warn("codecs", says, fix)
    return ok("codecs", ", ".join(CODECS))


def _decoders() -> set[str]:
    import av

    found = set()
    for name in {decoder for decoders in CODECS.values() for decoder in decoders}:
        with suppress(ValueError):  # av.codec.UnknownCodecError
            av.codec.Codec(name, "r")
            found.add(name)
    return found


def check_decoders(missing: Callable[[str], str | None] | None = None) -> Finding:
    """Check the values of ``prepare.decoder``. ``missing``: returns why one cannot be used, or None."""
    missing = missing or import_module("pipelines.decode.backends").missing  # by name: gare does not import pipelines
    usable, absent, broken = [], [], []
    for name, decoder in DECODERS.items():
        why = missing(name)
        if why is None:
            usable.append(name)
        elif decoder.extra is not None and find_spec(decoder.extra) is None:
            absent.append(f"{name} is not installed (optional: pip install 'gare-ray[{decoder.extra}]')")
        else:
            broken.append(why)
    if broken:
        return warn("decoders", " ".join(broken), "uninstall the package, or install what the sentence says")
    return ok("decoders", "; ".join([", ".join(usable), *absent]))


@dataclass(frozen=True)
class Gpus:
    """The GPUs as torch and the system report them."""

    names: tuple[str, ...]
    built_for: str | None
    """CUDA version of the torch build; None for a build without CUDA."""
    driver: str | None
    """Version of NVIDIA's kernel driver; None if there is none."""
    nccl: tuple[int, ...] | None

    @classmethod
    def here(cls) -> Gpus:
        """Look up this machine's GPUs."""
        import torch

        there = torch.cuda.is_available()
        nccl: Any = torch.cuda.nccl if there and torch.distributed.is_nccl_available() else None
        return cls(
            tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())) if there else (),
            torch.version.cuda,
            _driver(),
            tuple(nccl.version()) if nccl else None,
        )


def _driver(path: Path = NVIDIA_DRIVER) -> str | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else "unknown"


def check_gpus(gpus: Gpus) -> Finding:
    """Check that torch can use the machine's GPUs."""
    if gpus.names:
        kinds = ", ".join(f"{gpus.names.count(name)} x {name}" for name in dict.fromkeys(gpus.names))
        return ok("gpus", f"{kinds}; CUDA {gpus.built_for}, driver {gpus.driver or 'unknown'}")
    if gpus.driver is None:
        return ok("gpus", "none; training runs on the CPU")
    if gpus.built_for is None:
        return fail(
            "gpus", f"driver {gpus.driver} is there, but torch is built without CUDA", "install torch from PyPI"
        )
    return fail(
        "gpus",
        f"driver {gpus.driver} is there, but torch (CUDA {gpus.built_for}) finds no GPU",
        "update the driver to one for this CUDA, or give the container its GPUs (docker run --gpus all)",
    )


def check_nccl(gpus: Gpus) -> Finding:
    """Check that ranks on GPUs can communicate."""
    if not gpus.names:
        return ok("nccl", "not needed without GPUs; ranks use gloo")
    if gpus.nccl is None:
        return fail("nccl", "torch is built without NCCL, which ranks on GPUs need", "install torch from PyPI")
    return ok("nccl", ".".join(str(part) for part in gpus.nccl))

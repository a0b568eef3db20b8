"""Run all checks of one machine, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from gare.common.storage import Folder, is_address
from gare.data.cache import Cache
from gare.doctor import machine, places, software
from gare.doctor.finding import Check, Finding, examine


@dataclass(frozen=True)
class Wanted:
    """Places and limits to check a machine for. It is sent to the nodes of a cluster."""

    object_store: int
    """Bytes of Ray's object store."""
    shards: str | None = None
    output: str | None = None
    tracker: str | None = None
    cluster: bool = False
    running: bool = False
    """True if Ray is running on the machine."""
    fix: bool = False
    seen: str | None = None
    """Name of a file in ``output`` that the asking machine put there."""
    cache: Cache = field(default_factory=Cache)
    """Settings for copies of shards on the machine."""


def look(wanted: Wanted) -> list[Finding]:
    """Check this machine."""
    return examine([*_software(), *_machine(wanted), *_places(wanted)])


def _software() -> list[tuple[str, Check]]:
    gpus = cache(software.Gpus.here)  # a machine without torch fails both checks, each with the reason
    return [
        ("python", software.check_python),
        ("packages", software.check_packages),
        ("gpus", lambda: software.check_gpus(gpus())),
        ("nccl", lambda: software.check_nccl(gpus())),
        ("codecs", software.check_codecs),
        ("decoders", software.check_decoders),
    ]


def _machine(wanted: Wanted) -> list[tuple[str, Check]]:
    return [
        ("disk", machine.check_disk),
        ("shared memory", partial(machine.check_shared_memory, wanted.object_store, running=wanted.running)),
        ("open files", machine.check_open_files),
    ]


def _places(wanted: Wanted) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = []
    if wanted.shards is not None:
        checks.append(("shards", partial(places.check_readable, "shards", wanted.shards)))
        if wanted.cache.wants(Folder.at(wanted.shards)):
            checks.append(("cache", partial(places.check_cache, wanted.cache)))
    if wanted.output is not None:
        checks.append(("output", partial(places.check_writable, "output", wanted.output, seen=wanted.seen)))
        if not is_address(wanted.output):
            checks.append(("output disk", partial(machine.check_disk, Path(wanted.output), name="output disk")))
    checks.append(("tracker", partial(places.check_tracker, wanted.tracker, shared=wanted.cluster)))
    checks.append(("token", partial(places.check_token, cluster=wanted.cluster, fix=wanted.fix)))
    return checks

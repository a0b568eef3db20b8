"""Check that every node of a cluster sees a command's paths as the driver's node does."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gare.common.console import warn
from gare.common.errors import InputError
from gare.common.files import make_folder
from gare.common.storage import Folder
from gare.jobs.places import Place

ANSWER_SECONDS = 90.0
LATE_SECONDS = 1.0
LATE_TRIES = 3
"""A network file system may show a new file only a moment later."""

ENTRIES = 5
MARK = ".gare-seen-"


@dataclass(frozen=True)
class Probes:
    """Questions to a node, by place.

    ``needed``: files and folders that must exist, with their size in bytes; -1 for a folder. ``written``: the folder
    that must be writable.
    """

    needed: dict[str, dict[str, int]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)


def check_shared(places: Iterable[Place]) -> None:
    """Raise InputError, before anything starts, for paths that a node where work may run sees differently.

    Addresses are the same everywhere; if all work runs on this node, no other is asked. The error names place, node and
    what to do. A node that does not answer gives a warning.
    """
    nodes = _other_nodes()
    places = [place for place in places if Folder.at(place.value).is_local]
    if not nodes or not places:
        return
    with _marked(places) as probes:
        for node, answer in _ask(nodes, probes):
            for place in places:
                if place.label in answer:
                    raise InputError(
                        f"{place.label} is {place.value}, and the node {node} {answer[place.label]}. Put it on "
                        "storage that every node sees at the same path, or give an address (s3://...)."
                    )


def look(probes: Probes) -> dict[str, str]:
    """Check the places on a node; return place -> what is wrong with it."""
    wrong = {}
    for label, needed in probes.needed.items():
        missing = _missing(needed)
        if missing is not None:
            wrong[label] = missing
    for label, folder in probes.written.items():
        mark = Path(folder) / f"{MARK}{uuid.uuid4().hex}"
        try:
            mark.touch()
            mark.unlink()
        except OSError as error:
            wrong.setdefault(label, f"cannot write there ({error.strerror})")
    return wrong


def _missing(needed: Mapping[str, int]) -> str | None:
    what = None
    for attempt in range(LATE_TRIES):
        what = _first_missing(needed)
        if what is None:
            return None
        if attempt + 1 < LATE_TRIES:
            time.sleep(LATE_SECONDS)
    return what


def _first_missing(needed: Mapping[str, int]) -> str | None:
    for name, size in needed.items():
        path = Path(name)
        if not path.exists():
            return f"has no {name}" if MARK not in name else "has another folder of that name or none"
        if size >= 0 and path.is_file() and path.stat().st_size != size:
            return f"has another {name}"
    return None


@contextmanager
def _marked(places: Iterable[Place]) -> Iterator[Probes]:
    """Yield the probes of existing places, with a file in every output folder that the nodes must see."""
    probes, marks, made = Probes(), [], []
    try:
        for place in places:
            path = Folder.at(place.value).local
            if place.role == "output":
                made += [] if path.exists() else [path]
                mark = make_folder(path) / f"{MARK}{uuid.uuid4().hex}"
                mark.touch()
                marks.append(mark)
                probes.needed[place.label] = {str(mark): 0}
                probes.written[place.label] = str(path)
            elif path.exists():
                probes.needed[place.label] = _sample(path)
        yield probes
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _sample(path: Path) -> dict[str, int]:
    """Return a file, or a folder and its first entries, with the sizes of the files."""
    found = {str(path): -1 if path.is_dir() else path.stat().st_size}
    if path.is_dir():
        with os.scandir(path) as entries:
            named = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        found |= {str(path / name): -1 if folder else (path / name).stat().st_size for name, folder in named[:ENTRIES]}
    return found


def _other_nodes() -> dict[str, str]:
    """Return ids and names of the other nodes where work may run."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own and {"CPU", "GPU"} & set(node["Resources"])
    }


def _ask(nodes: Mapping[str, str], probes: Probes) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and answer of every node that answers; warn of the others."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked: dict[Any, str] = {}
    for node, name in nodes.items():
        place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(look)
        asked[task.remote(probes)] = name
    done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    for task in done:
        try:
            yield asked[task], ray.get(task)
        except ray.exceptions.RayError as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            warn(f"The node {asked[task]} could not tell whether it sees the command's paths: {first}")
    for task in silent:
        ray.cancel(task)
        warn(f"The node {asked[task]} did not answer within {ANSWER_SECONDS:.0f} s whether it sees the command's paths")

"""Reject paths in a submitted command that only the submitting machine can see."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from gare.common.addresses import sqlite_path
from gare.common.errors import InputError
from gare.common.redact import redact
from gare.common.storage import is_address

if TYPE_CHECKING:
    from gare.config import Config

SUBMITTED = "GARE_SUBMITTED"
"""Variable of a job: the submitting machine, and the paths of its command that exist there (JSON)."""

ELSEWHERE = (
    "put it on storage that every node of the cluster sees and give its absolute path there or an address "
    "(s3://...), or name the folder there that relative paths start from with --root"
)


@dataclass(frozen=True)
class Place:
    """A path or address in a command. ``label``: its name in messages: the option, argument or setting."""

    label: str
    value: str
    role: Literal["config", "input", "output"]

    @property
    def is_path(self) -> bool:
        """True if it is a path, and not an address."""
        return not is_address(self.value)

    @property
    def is_absolute(self) -> bool:
        """True if it is an absolute path."""
        return PurePosixPath(self.value).is_absolute()


def check_places(places: Iterable[Place], root: str | None) -> None:
    """Raise InputError for paths that fail on any cluster: relative ones, unless you give a folder there to start from.

    ``root``: that folder. The job's own folder does not serve: it holds only the code and is removed with the job.
    """
    if root is not None and not (is_address(root) or PurePosixPath(root).is_absolute()):
        raise InputError(f"--root {root} is relative; give the absolute path of a folder that every node sees.")
    if root is not None and is_address(root):
        raise InputError(f"--root {redact(root)} is an address; commands start in folders, such as a mounted one.")
    for place in places:
        if place.role == "config" or not place.is_path:
            continue
        if place.value.startswith("~"):
            raise InputError(f"{place.label} is {place.value}, a home folder, which is another one there; {ELSEWHERE}.")
        if root is not None or place.is_absolute:
            continue
        if place.role == "output":
            raise InputError(
                f"{place.label} is {place.value}, a path relative to the job's own folder, which is removed with the "
                f"job; {ELSEWHERE}."
            )
        here = "is on this machine and does not travel with the job" if Path(place.value).exists() else "is relative"
        raise InputError(f"{place.label} is {place.value}, which {here}; {ELSEWHERE}.")


def setting_places(config: Config) -> list[Place]:
    """Return the places in the settings of a run; relative ones are below ``runtime.root``.

    ``model.clip`` is a place if it is a path or a folder here; otherwise it is a model's name.
    """
    runtime, start = config.runtime, Path(config.runtime.root or "")

    def place(label: str, value: str, role: Literal["input", "output"]) -> Place:
        whole = value if is_address(value) or value.startswith("~") else str(start / value)
        return Place(label, whole, role)

    places = [Place("runtime.root", runtime.root, "input")] if runtime.root else []
    if runtime.shards is not None:
        places.append(place("runtime.shards", runtime.shards, "input"))
    if runtime.storage is None:  # with a copy on storage, each node may use its own disk
        places.append(place("runtime.output", runtime.output, "output"))
    else:
        places.append(place("runtime.storage", runtime.storage, "output"))
    clip = config.model.clip
    if clip.startswith((".", "/", "~")) or (start / clip).is_dir():
        places.append(place("model.clip", clip, "input"))
    if config.train.init_from is not None:
        places.append(place("train.init_from", config.train.init_from, "input"))
    database = sqlite_path(runtime.tracking_uri or "") if runtime.tracking else None
    if database is not None:
        places.append(place("runtime.tracking_uri", str(database.parent), "output"))
    return places


def seen_here(places: Iterable[Place]) -> str:
    """Return SUBMITTED's JSON: the inputs that exist here under the given path, for the job to compare."""
    found = {
        place.label: place.value
        for place in places
        if place.role == "input" and place.is_path and place.is_absolute and Path(place.value).exists()
    }
    return json.dumps({"host": socket.gethostname(), "paths": found})


def refuse_foreign_paths() -> None:
    """Raise InputError in a job, before its command runs, for inputs that exist only on the submitting machine."""
    text = os.environ.get(SUBMITTED)
    if not text:
        return
    submitted = json.loads(text)
    for label, path in submitted["paths"].items():
        if not Path(path).exists():
            raise InputError(
                f"{label} is {path}, which is on {submitted['host']}, where the job came from, and not on "
                f"{socket.gethostname()}, where it runs; {ELSEWHERE}."
            )

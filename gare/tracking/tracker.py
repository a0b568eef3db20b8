"""The protocol of a tracker: three methods, implemented by MLflow or others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gare.tracking.names import Point

if TYPE_CHECKING:
    from gare.tracking.record import Record, Status


class Unreachable(Exception):  # noqa: N818 - a state, not a mistake
    """The tracker does not answer now, or cannot."""


class Denied(Unreachable):
    """The tracker answers, but refuses access: HTTP 401 or 403. ``fix`` says what to check."""

    def __init__(self, says: str, fix: str) -> None:
        super().__init__(says)
        self.fix = fix


class Refused(Exception):  # noqa: N818
    """The tracker refused, and would do so again."""


class Gone(Refused):
    """The tracker no longer has the run, or has it in another experiment."""


@dataclass
class Found:
    """A run of a tracker: its id, each metric's last point (step, time in ms, value), and its parameters."""

    run_id: str
    latest: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    params: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Changes:
    """Changes to a run. ``dataset``: name, digest and source. ``ended_ms``: None while it runs."""

    tags: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    dataset: Mapping[str, str] = field(default_factory=dict)
    status: Status | None = None
    ended_ms: int | None = None


class Tracker(Protocol):
    """One experiment of one tracker. Every method raises Refused, Denied or Unreachable.

    Each may be called again with the same arguments if an answer was lost, and must then change nothing.
    """

    def find(self, record: Record, parent: str | None) -> Found:
        """Find the run by ``record.run_id`` or ``record.token``, or create it as a child of the run ``parent``."""

    def log(self, run_id: str, changes: Changes) -> None:
        """Add parameters, points and the dataset, set tags, description and status."""

    def copy(self, run_id: str, path: Path, to: str) -> None:
        """Copy a file, or the content of a folder, to ``to`` among the run's artifacts."""

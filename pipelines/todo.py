"""What a data job has to do: the units that are not finished, and rows of finished ones that are to be done again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gare.common.errors import InputError
from pipelines.changes import Change, changed_sources
from pipelines.output import Ledger, Output, Part

OnChange = Literal["refuse", "redo", "ignore"]
"""What becomes of videos whose source was changed: the job is refused, they are decoded again, nobody looks."""


@dataclass(frozen=True)
class UnitTask:
    """A unit to do: all of its ``videos``, or those at the positions ``again``, the others staying as they are."""

    unit: int
    videos: int
    again: tuple[int, ...] | None = None


def tasks(output: Output, *, retry_failed: bool, changed: OnChange) -> list[UnitTask]:
    """What is to do in a folder, by its ledger.

    ``retry_failed``: also the videos that failed. Raises InputError for changed sources that are refused.
    """
    found: list[UnitTask] = []
    refused: list[Change] = []
    for unit, part in enumerate(Ledger(output).each()):
        if part is None:
            found.append(UnitTask(unit, output.batch(unit).num_rows))
            continue
        again = set(_failed(part)) if retry_failed else set()
        if changed != "ignore":
            changes = changed_sources(part.table)
            (refused if changed == "refuse" else []).extend(changes)
            again |= {change.row for change in changes}
        if again:
            found.append(UnitTask(unit, len(again), tuple(sorted(again))))
    if refused:
        raise InputError(_sentence(output, refused))
    return found


def _failed(part: Part) -> Iterator[int]:
    for position, status in enumerate(part.table["status"].to_pylist()):
        if status == "failed":
            yield position


def _sentence(output: Output, changes: list[Change]) -> str:
    first = changes[0]
    number = "A source was" if len(changes) == 1 else f"{len(changes)} sources were"
    return (
        f"{number} changed since {output.place} was made, {first.video_id!r} first ({first.uri}: {first.what}). "
        "--changed redo decodes them again, --changed ignore keeps what is stored."
    )

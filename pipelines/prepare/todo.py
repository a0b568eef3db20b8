"""What a data job has to do: the units that are not finished, and rows of finished ones that are to be done again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gare.common.console import warn
from gare.common.errors import InputError
from pipelines.dataset import Absent, Ledger, Output, Part, Unfinished, once_finished
from pipelines.prepare.changes import Change, Unseen, changed_sources

OnChange = Literal["refuse", "redo", "ignore"]
"""What becomes of videos whose source was changed: the job is refused, they are decoded again, nobody looks."""


@dataclass(frozen=True)
class UnitTask:
    """A unit to do: all of its ``videos``, or those at the positions ``again``, the others staying as they are.

    ``damage``: what is wrong with the files of a unit that was finished once; it is repaired.
    """

    unit: int
    videos: int
    again: tuple[int, ...] | None = None
    damage: str = ""


def tasks(output: Output, *, retry_failed: bool, changed: OnChange) -> list[UnitTask]:
    """What is to do in a folder, by its ledger; units that are damaged come last.

    ``retry_failed``: also the videos that failed. Raises InputError for changed sources that are refused, and where
    storage cannot be read.
    """
    found: list[UnitTask] = []
    refused: list[Change] = []
    unseen: list[Unseen] = []
    once = once_finished(output.place)
    for unit, state in enumerate(Ledger(output).each()):
        if isinstance(state, Unfinished):
            never = isinstance(state, Absent) and once is not None and unit not in once
            found.append(UnitTask(unit, output.batch(unit).num_rows, damage="" if never else str(state)))
            continue
        again = set(_failed(state)) if retry_failed else set()
        if changed != "ignore":
            changes, out_of_sight = changed_sources(state.table)
            unseen.extend(out_of_sight)
            (refused if changed == "refuse" else []).extend(changes)
            again |= {change.row for change in changes}
        if again:
            found.append(UnitTask(unit, len(again), tuple(sorted(again))))
    if unseen:
        warn(_not_seen(unseen))
    if refused:
        raise InputError(_sentence(output, refused))
    damaged = [task for task in found if task.damage]
    if damaged:
        warn(_repaired(damaged))
    return [task for task in found if not task.damage] + damaged


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


def _not_seen(unseen: list[Unseen]) -> str:
    first = unseen[0]
    number = "A source" if len(unseen) == 1 else f"{len(unseen)} sources"
    return (
        f"{number} could not be looked at, {first.video_id!r} first ({first.uri}: {first.why}). What is stored of them "
        "stays, whether they were changed or not."
    )


def _repaired(damaged: list[UnitTask]) -> str:
    number = "A work unit is" if len(damaged) == 1 else f"{len(damaged)} work units are"
    return (
        f"{number} damaged, unit {damaged[0].unit} first: {damaged[0].damage} They are done again, and what lies there "
        "of them and is whole stays."
    )

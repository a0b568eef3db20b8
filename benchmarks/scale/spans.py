"""Calculate efficiency from the times at which slots were busy: pure arithmetic on the starts and ends of units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Span:
    """Start and end of a unit of work (s), and the node that did it."""

    start: float
    end: float
    node: str


@dataclass(frozen=True)
class Steady:
    """A job between the moment when all slots were first busy and the one when the last unit began.

    ``begin``, ``dry``: these moments; ``end``: the last unit's end. ``rate``: units per second between ``begin`` and
    ``dry``, a unit that lies half in it counting half. ``busy``: the share of the slots' time in there that was spent
    on units. ``gap``: seconds that a slot waits between two units. ``most``: units at the same time.
    """

    begin: float
    dry: float
    end: float
    rate: float
    busy: float
    gap: float
    most: int


def steady(spans: Sequence[Span], slots: int) -> Steady:
    """Measure a job on so many slots; ValueError if they were never all busy, or no unit began after that."""
    begin, most = _all_at_work(spans, slots)
    if begin is None:
        raise ValueError(f"At most {most} of {slots} slots were at work at once.")
    dry, end = max(span.start for span in spans), max(span.end for span in spans)
    if dry <= begin:
        raise ValueError(f"No unit began after all {slots} slots were at work; there are too few units.")
    inside = [max(0.0, min(span.end, dry) - max(span.start, begin)) for span in spans]
    done = sum(part / (span.end - span.start) for part, span in zip(inside, spans, strict=True))
    idle = slots * (dry - begin) - sum(inside)
    began = sum(begin < span.start <= dry for span in spans)
    return Steady(begin, dry, end, done / (dry - begin), 1 - idle / (slots * (dry - begin)), idle / began, most)


def _all_at_work(spans: Sequence[Span], slots: int) -> tuple[float | None, int]:
    """Return when so many units ran at once for the first time (None: never), and the most that ever did."""
    changes = sorted([(span.start, 1) for span in spans] + [(span.end, -1) for span in spans])
    now = most = 0
    begin = None
    for moment, change in changes:
        now += change
        most = max(most, now)
        if begin is None and now >= slots:
            begin = moment
    return begin, most


def whole(spans: Sequence[Span], slots: int, began: float) -> float:
    """Return the share of the slots' time from ``began`` to the last unit's end that was spent on units."""
    return sum(span.end - span.start for span in spans) / (slots * (max(span.end for span in spans) - began))


def longest_pause(spans: Sequence[Span]) -> float:
    """Return the longest time in which no unit began, up to the last one's beginning."""
    starts = sorted(span.start for span in spans)
    return max((after - before for before, after in pairwise(starts)), default=0.0)

"""Compute when frames are shown from their stored times, even if these are missing or go back. Pure functions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

DEFAULT_RATE: Final = 25.0
"""Frames per second for files that state neither times nor a rate."""
FEW: Final = 0.25
"""If more than this share of the times does not fit, none is believed: times that ignore B-frames go back often."""
MOST_IN_A_ROW: Final = 64
"""More than this many times in a row that do not fit are no accident: the clock restarted."""


@dataclass(frozen=True)
class Shown:
    """The frames that count.

    ``numbers``: rising, among all decoded frames; ``times_s``: when each is shown, from the first; ``tick_s``: the
    unit the times are rounded to, 0 if they are exact; ``notes``: keys of ``NOTES``.
    """

    numbers: Sequence[int]
    times_s: list[float]
    tick_s: float
    notes: list[str]


def shown(pts: Sequence[int | None], unit: Fraction, rate: float | None, *, made_up: bool = False) -> Shown:
    """Find the frames that count, among all in decoding order, and their times.

    A repeated time counts once. A frame whose time goes back is left out, and a frame without a time is placed between
    its neighbours. If there are many of these, or many in a row, times are computed from frame numbers instead; so
    they are if times that are ``made_up``, not stated in the file, go back at all.
    """
    kept = [0] if pts and pts[0] is not None else []
    if len(pts) > 1 and all(a is not None and b is not None and a <= b for a, b in pairwise(pts)):
        kept += [i for i in range(1, len(pts)) if pts[i] != pts[i - 1]]
        strange: list[int] = []
    else:
        kept = _rising(pts)
        strange = _strange(pts, kept)
    uneasy = made_up or len(strange) > FEW * len(pts) or _longest_run(strange) > MOST_IN_A_ROW
    if 2 * len(kept) < len(pts) or (strange and uneasy):
        step = 1 / (rate or DEFAULT_RATE)
        return Shown(range(len(pts)), [i * step for i in range(len(pts))], 0.0, ["ordinal_timestamps"])
    known = [pts[i] or 0 for i in kept]
    if not strange:
        return Shown(kept, seconds(known, unit), tick_s(known, unit), [])
    missing = [i for i in strange if pts[i] is None]
    numbers = sorted([*kept, *missing])
    filled = _filled(numbers, kept, known)
    times = [(value - filled[0]) * float(unit) for value in filled]
    return Shown(numbers, times, tick_s(known, unit), ["repaired_timestamps"])


def seconds(pts: Sequence[int], unit: Fraction) -> list[float]:
    """Convert pts to seconds from the first of them."""
    up, down = unit.numerator, unit.denominator
    return [(value - pts[0]) * up / down for value in pts]


def tick_s(pts: Sequence[int] | NDArray[np.int64], unit: Fraction) -> float:
    """Return the unit rising pts are rounded to, in seconds; 0 if every gap is a multiple of the shortest one.

    Times are exact if the time base is a frame (AVI) or a small part of one (MP4), but not if it is a millisecond
    and frames take 33.3 ms.
    """
    gaps = np.diff(np.asarray(pts, np.int64))
    if not len(gaps):
        return 0.0
    exact = len(gaps) > 1 and int(np.gcd.reduce(gaps)) == int(gaps.min())
    return 0.0 if exact else float(unit)


def _rising(pts: Sequence[int | None]) -> list[int]:
    """Return the frame numbers of the longest rising series of times, each at its first place."""
    ends: list[int] = []
    last: list[int] = []
    before = [-1] * len(pts)
    for i, value in enumerate(pts):
        if value is None:
            continue
        length = bisect_left(ends, value)
        if length < len(ends) and ends[length] == value:
            continue
        before[i] = last[length - 1] if length else -1
        ends[length : length + 1], last[length : length + 1] = [value], [i]
    found = []
    at = last[-1] if last else -1
    while at >= 0:
        found.append(at)
        at = before[at]
    return found[::-1]


def _strange(pts: Sequence[int | None], kept: Sequence[int]) -> list[int]:
    """Find the frames that are not kept and do not just repeat the time of the last kept one."""
    chosen, last = set(kept), None
    found = []
    for i, value in enumerate(pts):
        if i in chosen:
            last = value
        elif value is None or value != last:
            found.append(i)
    return found


def _longest_run(numbers: Sequence[int]) -> int:
    """Return the length of the longest run of consecutive numbers among rising ones."""
    longest = run = 0
    for i, number in enumerate(numbers):
        run = run + 1 if i and number == numbers[i - 1] + 1 else 1
        longest = max(longest, run)
    return longest


def _filled(numbers: Sequence[int], kept: Sequence[int], known: Sequence[int]) -> list[float]:
    """Interpolate the times of ``numbers`` between the ``known`` ones of the ``kept``; extrapolate by the mean gap."""
    step = (known[-1] - known[0]) / max(1, kept[-1] - kept[0])
    places = np.interp(numbers, kept, known)
    before, behind = np.asarray(numbers) < kept[0], np.asarray(numbers) > kept[-1]
    places[before] = known[0] + step * (np.asarray(numbers)[before] - kept[0])
    places[behind] = known[-1] + step * (np.asarray(numbers)[behind] - kept[-1])
    return [float(place) for place in places]

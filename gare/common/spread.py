"""Choosing some of ``count`` things in a row, in whole numbers: no rounding can make two places disagree."""

from __future__ import annotations


def thin(count: int, at_most: int) -> list[int]:
    """Up to ``at_most`` of ``count`` positions, evenly, both ends included, truncated: an exact linspace.

    Taking every n-th of the positions for ``at_most`` = n * k + 1 gives those for k + 1, whatever ``count`` is.
    """
    if count <= at_most:
        return list(range(count))
    return [k * (count - 1) // max(1, at_most - 1) for k in range(at_most)]


def segments(count: int, parts: int) -> list[range]:
    """Cut ``count`` positions into ``parts`` runs of equal length, but for one position; no run is empty."""
    parts = min(parts, count)
    return [range(k * count // parts, (k + 1) * count // parts) for k in range(parts)]


def segment_middles(count: int, parts: int) -> list[int]:
    """The middle position of each of ``parts`` segments, the later one of two."""
    return [segment[len(segment) // 2] for segment in segments(count, parts)]

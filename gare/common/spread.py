"""Choose some of ``count`` positions in whole numbers, so that rounding cannot differ between callers."""

from __future__ import annotations


def thin(count: int, at_most: int) -> list[int]:
    """Return up to ``at_most`` of ``count`` positions, evenly, both ends included, truncated: an exact linspace.

    Every n-th of the positions for ``at_most`` = n * k + 1 are those for k + 1, whatever ``count`` is.
    """
    if count <= at_most:
        return list(range(count))
    return [k * (count - 1) // max(1, at_most - 1) for k in range(at_most)]


def segments(count: int, parts: int) -> list[range]:
    """Cut ``count`` positions into ``parts`` runs whose lengths differ by at most one; no run is empty."""
    parts = min(parts, count)
    return [range(k * count // parts, (k + 1) * count // parts) for k in range(parts)]


def segment_middles(count: int, parts: int) -> list[int]:
    """Return the middle position of each of ``parts`` segments, the later of two."""
    return [segment[len(segment) // 2] for segment in segments(count, parts)]

"""Search long videos by their clips: the hits of one file stand together."""

from __future__ import annotations

from collections.abc import Callable

from gare.retrieval.index import Hit, Hits, SearchIndex

MOMENTS = 5
"""Most hits of one file."""

DEEPER = 4
"""Hits to ask for per file, and factor by which to ask for more if they are of too few files."""


def groups(hits: Hits) -> list[list[int]]:
    """Return the places of the hits of each file, best first; files in the order of their best hits."""
    found: dict[str, list[int]] = {}
    for number, hit in enumerate(hits):
        found.setdefault(hit.uri, []).append(number)
    return list(found.values())


def by_file(index: SearchIndex, search: Callable[[int], Hits], files: int) -> Hits:
    """Search for the best ``files`` files of an index; each has up to ``MOMENTS`` hits, which stand together.

    ``search``: returns the given number of hits. ``rank`` stays that among all hits.
    """
    if not index.shares_files:
        return search(files)
    top, videos = DEEPER * files, len(index)
    while True:
        hits = search(min(top, videos))
        found = groups(hits)
        if len(found) >= files or len(hits) < top:
            break
        top *= DEEPER
    chosen = [number for group in found[:files] for number in group[:MOMENTS]]
    kept: list[Hit] = [hits[number] for number in chosen]
    return Hits(kept, hits.searched, [hits.places[number] for number in chosen])

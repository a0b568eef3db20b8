"""The pair heads: how a text and a video become a score. A second head is a file in ``gare/scoring`` and a row here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """``source``: module and class; ``reads``: settings of ``model`` that mean something to it and no other part.

    ``increments``: whether it makes the increments that the regularisers take.
    """

    source: str
    reads: tuple[str, ...]
    increments: bool


HEADS = {
    "gare": Head(
        "gare.scoring.increment.head:GareHead",
        ("pool_temperature", "increment", "corrected", "context", "gap_sign", "query", "video_base", "dropout"),
        increments=True,
    ),
}

"""Exact scoring, metrics, index and search. No Ray, no MLflow; torch only once something needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gare.scoring.factors import ScoreStats
    from gare.scoring.video_index import VideoIndex

__all__ = ["ScoreStats", "VideoIndex"]


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: the metrics beside them need no torch."""
    if name == "VideoIndex":
        from gare.scoring.video_index import VideoIndex

        return VideoIndex
    if name == "ScoreStats":
        from gare.scoring.factors import ScoreStats

        return ScoreStats
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

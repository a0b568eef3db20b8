"""Draw some queries with their top videos, a strip of frames each, the right one framed in green."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gare.common.sheet import PLAIN, Cell, Row, write_sheet
from gare.data.shards import Split
from gare.evaluation.answers import Answers

SHOWN_FRAMES = 4
RIGHT = "#1a9850"


def choose_queries(owner: NDArray[np.int64], count: int) -> list[int]:
    """Choose query numbers spread over the split, at most one per video, regardless of their ranks."""
    first_of_video = np.unique(owner, return_index=True)[1]
    picks = np.linspace(0, len(first_of_video) - 1, min(count, len(first_of_video))).astype(int)
    return [int(first_of_video[i]) for i in picks]


def contact_sheet(
    texts: list[str], answers: Answers, split: Split, path: Path, *, queries: int = 8, top: int = 4
) -> None:
    """Write the PNG: a row per query with its text and rank, a column per retrieved video in order.

    ``answers``: those of the texts, at least ``top`` each if there are that many videos.
    """
    top = min(top, len(split))
    rows = []
    for query in choose_queries(answers.ranking.video, queries):
        cells = [_cell(answers, split, query, place) for place in range(top)]
        rows.append(Row(f"“{texts[query]}” - rank {answers.ranking.ranks[query]:g}", cells))
    title = f"{split.name}: queries and their top {top} videos (green: the described one)"
    write_sheet(path, title, rows, cell_inches=3.1, row_inches=1.45)


def _cell(answers: Answers, split: Split, query: int, place: int) -> Cell:
    video = int(answers.items[query, place])
    text = f"{split.videos[video].video_id}  {answers.scores[query, place]:.2f}"
    right = video == answers.ranking.video[query]
    frames = list(split.frames(video, SHOWN_FRAMES))
    return Cell(frames, text, RIGHT if right else PLAIN, 3.0 if right else 1.0)

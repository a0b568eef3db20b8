"""A picture of some queries with their top videos, a strip of frames each, the right one framed in green."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gare.common.files import atomic_file
from gare.data.shards import Split
from gare.retrieval.evaluation.evaluate import Evaluation

SHOWN_FRAMES = 4
RIGHT, WRONG = "#1a9850", "#bbbbbb"


def choose_queries(evaluation: Evaluation, count: int) -> list[int]:
    """Query numbers spread over the split, one per video at most, mistakes included as they fall."""
    first_of_video = np.unique(evaluation.owner, return_index=True)[1]
    picks = np.linspace(0, len(first_of_video) - 1, min(count, len(first_of_video))).astype(int)
    return [int(first_of_video[i]) for i in picks]


def contact_sheet(evaluation: Evaluation, split: Split, path: Path, *, queries: int = 8, top: int = 4) -> None:
    """Write the PNG: a row per query with its text and rank, a column per retrieved video in order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = choose_queries(evaluation, queries)
    top = min(top, len(split))
    ranks = evaluation.rankings["t2v"].ranks
    figure = Figure(figsize=(3.1 * top, 1.45 * len(rows) + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{split.name}: queries and their top {top} videos (green: the described one)", fontsize=11)
    grid = figure.subfigures(len(rows), 1, squeeze=False)
    for row, query in enumerate(rows):
        part = grid[row, 0]
        part.suptitle(f"“{evaluation.texts[query]}” - rank {ranks[query]:g}", fontsize=9, x=0.01, ha="left")
        best = np.argsort(-evaluation.scores[query], kind="stable")[:top]
        for axis, video in zip(part.subplots(1, top, squeeze=False)[0], best, strict=True):
            clip = split.frames(int(video), SHOWN_FRAMES)
            axis.imshow(np.concatenate(list(clip), axis=1))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(f"{split.videos[int(video)].video_id}  {evaluation.scores[query, video]:.2f}", fontsize=7)
            right = video == evaluation.owner[query]
            for side in axis.spines.values():
                side.set(color=RIGHT if right else WRONG, linewidth=3 if right else 1)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")

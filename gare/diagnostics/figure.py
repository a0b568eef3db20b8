"""Draw the effect of the increment in one figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gare.common.files import atomic_file
from gare.diagnostics.measures import PairState, angles, margins, modality_gap, positives_and_negatives
from gare.scoring.increment.cell import corrected_sides

POSITIVE, NEGATIVE = "#1a9850", "#9e9e9e"
TEXT, VIDEO, MOVED = "#3366cc", "#e07b00", "#1a9850"
FEWEST_BINS, MOST_BINS = 8, 40
MAX_POINTS = 200


def increment_figure(state: PairState, path: Path, *, title: str = "What the increment does") -> None:
    """Write a PNG for a state of at least two texts and two videos.

    It shows the two modalities before and after the increment (matching pairs, in the plane of the gap and of the
    widest spread orthogonal to it); lengths of the increments and their angles to the gap, for matching and
    other pairs; and a match's margin over its best rival, before and after.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain = {name: getattr(state, name).detach().cpu().double() for name in ("text", "video", "gap", "delta")}
    state = replace(state, **plain, match=state.match.cpu())
    figure = Figure(figsize=(11, 7.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(2, 2)
    _draw_gap(grid[0, 0], state)
    _draw_margins(grid[0, 1], state)
    _draw_pairs(grid[1, 0], state.delta.norm(dim=-1), state.match, "length of the increment")
    _draw_pairs(grid[1, 1], angles(state.delta, state.gap), state.match, "angle of increment and gap, degrees")
    grid[1, 1].axvline(90, color="#444444", linewidth=0.8, linestyle=":")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_gap(axis: Any, state: PairState) -> None:
    """Draw matching pairs as unit vectors: texts, videos, and where the increment moves them."""
    rows = torch.arange(len(state.text))
    text, video = state.text, state.video[rows, state.match]
    added = state.delta[rows, state.match]
    fixed, start = (video, text) if state.corrected == "text" else (text, video)
    moved = start + added
    sides = corrected_sides(text, video, added, state.corrected)
    shown = torch.linspace(0, len(rows) - 1, min(len(rows), MAX_POINTS)).long()
    plane = _plane(text, video)
    a, b, c = ((F.normalize(x, dim=-1)[shown] @ plane).numpy() for x in (start, fixed, moved))
    names, colours = ("text", "video"), (TEXT, VIDEO)
    if state.corrected == "video":
        names, colours = names[::-1], colours[::-1]
    axis.plot(*np.stack([a, c], axis=1).transpose(2, 1, 0), color=MOVED, alpha=0.2, linewidth=0.7, zorder=1)
    for points, colour, label, marker in (
        (a, colours[0], names[0], "o"),
        (b, colours[1], names[1], "s"),
        (c, MOVED, f"{names[0]} + increment", "^"),
    ):
        axis.scatter(*points.T, s=16, color=colour, alpha=0.75, label=label, marker=marker, linewidths=0, zorder=2)
    before, after = float(modality_gap(text, video)), float(modality_gap(*sides))
    axis.set_title(f"matching pairs: modality gap {before:.2f} before, {after:.2f} after", fontsize=10)
    axis.set_xlabel("along the gap (unit vectors)", fontsize=9)
    axis.set_ylabel("widest spread across it", fontsize=9)
    axis.legend(fontsize=8, framealpha=0.6)


def _draw_pairs(axis: Any, values: Tensor, match: Tensor, label: str) -> None:
    """Draw histograms of matching and other pairs."""
    positive, negative = (x[~x.isnan()].numpy() for x in positives_and_negatives(values, match))
    _draw_two(
        axis,
        (negative, NEGATIVE, f"other pairs: {_mean(negative)}"),
        (positive, POSITIVE, f"matching pairs: {_mean(positive)}"),
    )
    for part, colour, dashes in ((negative, NEGATIVE, "-"), (positive, POSITIVE, "--")):
        if len(part):
            axis.axvline(part.mean(), color=colour, linewidth=1.3, linestyle=dashes)
    axis.set_title(f"{label} (vertical lines: means)", fontsize=10)
    axis.set_ylabel("% of the pairs", fontsize=9)


def _draw_margins(axis: Any, state: PairState) -> None:
    """Draw margins of matches over their best rivals, without and with the increment."""
    before = margins(state.scores(torch.zeros_like(state.delta)), state.match).numpy()
    after = margins(state.scores(), state.match).numpy()
    _draw_two(
        axis,
        (before, TEXT, f"without increment: {np.mean(before > 0):.0%} of the matches first"),
        (after, MOVED, f"with increment: {np.mean(after > 0):.0%} of the matches first"),
    )
    axis.axvline(0, color="#444444", linewidth=0.8, linestyle=":")
    axis.set_title("score of the match less that of its best rival", fontsize=10)
    axis.set_ylabel("% of the texts", fontsize=9)


def _draw_two(axis: Any, filled: tuple[Any, str, str], outlined: tuple[Any, str, str]) -> None:
    """Draw two histograms in % of their own sets, distinguishable even where they coincide."""
    edges = _edges(filled[0], outlined[0])
    styles = ({"histtype": "stepfilled", "alpha": 0.35}, {"histtype": "step", "linewidth": 1.8})
    for (part, colour, label), style in zip((filled, outlined), styles, strict=True):
        if len(part):
            axis.hist(part, edges, weights=np.full(len(part), 100 / len(part)), color=colour, label=label, **style)
    axis.margins(y=0.3)  # room for the legend
    if any(len(part) for part, *_ in (filled, outlined)):
        axis.legend(fontsize=8, framealpha=0.6, loc="upper right")


def _mean(part: Any) -> str:
    return f"{part.mean():.3g} ± {part.std():.2g}" if len(part) else "none"


def _plane(text: Tensor, video: Tensor) -> Tensor:
    """Return [D, 2]: the direction of the gap, and the direction of widest spread orthogonal to it."""
    text, video = F.normalize(text, dim=-1), F.normalize(video, dim=-1)
    gap = F.normalize(video.mean(dim=0) - text.mean(dim=0), dim=0)
    rest = torch.cat([text - text.mean(dim=0), video - video.mean(dim=0)])
    rest = rest - (rest @ gap)[:, None] * gap
    return torch.stack([gap, torch.linalg.svd(rest, full_matrices=False).Vh[0]], dim=1)


def _edges(*parts: Any) -> Any:
    """Return common bin edges; a single value gets a bin around it."""
    values = np.concatenate(parts)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = max(high - low, 1e-3 * max(abs(high), abs(low), 1e-3))
    # Use as many bins as the smaller set can fill.
    bins = int(np.clip(2 * min(len(part) for part in parts) ** 0.5, FEWEST_BINS, MOST_BINS))
    return np.linspace(low - 0.01 * room, high + 0.01 * room, bins + 1)

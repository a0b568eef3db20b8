"""Write the report page, one HTML file with its pictures; ``report.html`` defines its look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gare.common.files import write_text
from gare.common.page import render as render_page
from gare.common.page import share
from gare.common.page.figures import BAR, FAINT, INK, canvas, drawing, inline_svg
from gare.data.shards import Split
from gare.evaluation.measure import Measurement
from gare.evaluation.report.content import HUB_WINS, Report, Subject, gather
from gare.evaluation.report.groups import Group
from gare.evaluation.report.pictures import SHOWN_FRAMES

DIRECTIONS = {"t2v": "Text to video", "v2t": "Video to text", "v2t_grouped": "Video to text, grouped by video"}
TAGS = {"dsl": "dual softmax", "qbnorm": "QB-Norm"}
TIES = {
    "pessimistic": "Ties count against the query.",
    "optimistic": "Ties count for the query.",
    "mean": "Ties count half.",
}
SECTIONS = (
    ("metrics", "Metrics"),
    ("ranks", "Rank of the right answer"),
    ("checks", "What the data cost"),
    ("attributes", "Accuracy by attribute"),
    ("hardest", "Hardest queries"),
    ("hubs", "Videos that come first too often"),
)
MEASURES = ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR"]
CHART = (400.0, 200.0)
REPORT_FILE = "report.html"


def write_report(path: Path, subject: Subject, measured: Measurement, split: Split, *, hardest: int) -> None:
    """Write the page of a measurement of a split, with pictures of the ``hardest`` queries, atomically."""
    write_text(path, render(gather(subject, measured, split, hardest=hardest)))


@drawing()
def render(report: Report) -> str:
    """Render the whole page."""
    first = report.rows[0]
    overall = first.metrics["R@1"]
    reached = [group.interval[1] for groups in report.attributes.values() for group in groups]
    return render_page(
        __package__,
        REPORT_FILE,
        SECTIONS,
        title=f"{report.subject.title} on {report.subject.split}",
        report=report,
        first=first,
        overall=overall,
        most=10.0 * math.ceil(max(reached, default=0.0) / 10),
        side=lambda group: side(group, overall),
        level=share(100 * report.level, 0),
        certain=any(low == high for row in report.rows for low, high in row.intervals.values()),
        ties=TIES[report.ties],
        histograms=[_histogram(name, buckets) for name, buckets in report.histograms.items()],
        measures=MEASURES,
        directions=DIRECTIONS,
        tags=TAGS,
        shown_frames=SHOWN_FRAMES,
        hub_wins=HUB_WINS,
    )


def side(found: Group, overall: float) -> str:
    """Return ``worse`` or ``better`` if a group certainly differs from ``overall``; otherwise an empty string."""
    return "worse" if found.interval[1] < overall else "better" if found.interval[0] > overall else ""


def _histogram(name: str, buckets: Sequence[tuple[str, int]]) -> tuple[str, Any]:
    """Return a caption, and a chart of counts by bucket as upright bars, each with its count and share."""
    caption = f"{DIRECTIONS[name]}: queries by rank of the right answer"
    labels, numbers = zip(*buckets, strict=True)
    total = sum(numbers)
    figure = canvas(*CHART)
    axes = figure.add_axes((0.0, 0.12, 1.0, 0.7), frameon=False)
    bars = axes.bar(range(len(numbers)), numbers, width=0.72, color=BAR)
    axes.bar_label(bars, [f"{100 * number / total:.1f} %" for number in numbers], padding=2, fontsize=11, color=FAINT)
    axes.bar_label(bars, [f"{number:,}" for number in numbers], padding=15, fontsize=13, color=INK)
    axes.set_xticks(range(len(labels)), labels, fontsize=13)
    axes.set_yticks([])
    axes.tick_params(length=0)
    says = "; ".join(f"rank {label}: {number} of {total}" for label, number in buckets)
    return caption, inline_svg(figure, name, f"{caption}. {says}")

"""Pieces of HTML for an evaluation: captions, bars, pictures of videos."""

from __future__ import annotations

from collections.abc import Sequence

from gare.common.page.parts import count, text
from gare.retrieval.evaluation.report.groups import Group
from gare.retrieval.evaluation.report.pictures import SHOWN_FRAMES, Strip

BAR_WIDTH, BAR_HEIGHT = 180, 18
CHART_WIDTH, CHART_HEIGHT = 400, 200
FLOOR, CEILING = 24, 36
"""Room below the bars of a chart for its buckets, above them for the counts."""


def caption(value: str) -> str:
    """Somebody's sentence, whose writing direction does not spread to what stands around it."""
    return f'<q dir="auto">{text(value)}</q>'


def chart(title: str, buckets: Sequence[tuple[str, int]]) -> str:
    """Counts by bucket as an SVG of upright bars, each with its count and share."""
    total = sum(number for _, number in buckets)
    most = max(number for _, number in buckets)
    step, room = CHART_WIDTH / len(buckets), CHART_HEIGHT - FLOOR - CEILING
    says = "; ".join(f"rank {label}: {number} of {total}" for label, number in buckets)
    bars = []
    for place, (label, number) in enumerate(buckets):
        middle, height = (place + 0.5) * step, room * number / most
        top = CHART_HEIGHT - FLOOR - height
        bars.append(
            f'<rect x="{middle - step * 0.36:.1f}" y="{top:.1f}" width="{step * 0.72:.1f}" height="{height:.1f}"/>'
            f'<text x="{middle:.1f}" y="{top - 19:.1f}">{number:,}</text>'
            f'<text class="faint" x="{middle:.1f}" y="{top - 5:.1f}">{100 * number / total:.1f} %</text>'
            f'<text x="{middle:.1f}" y="{CHART_HEIGHT - 6}">{text(label)}</text>'
        )
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption><svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" '
        f'role="img" aria-label="{text(title)}. {text(says)}">{"".join(bars)}</svg></figure>'
    )


def bar(found: Group, overall: float, most: float) -> str:
    """R@1 of a group as a bar up to ``most`` percent with its interval, and a line at ``overall``."""

    def x(percent: float) -> float:
        return BAR_WIDTH * percent / most

    middle = BAR_HEIGHT / 2
    low, high = (x(end) for end in found.interval)
    return (
        f'<svg class="bars {side(found, overall)}" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}" '
        'preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar" x="0" y="3" width="{x(found.recall):.1f}" height="{BAR_HEIGHT - 6}"/>'
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}"/>'
        f'<path class="overall" d="M{x(overall):.1f} 0V{BAR_HEIGHT}"/></svg>'
    )


def side(found: Group, overall: float) -> str:
    """Whether a group is certainly ``worse`` or ``better`` than ``overall``, or neither."""
    return "worse" if found.interval[1] < overall else "better" if found.interval[0] > overall else ""


def picture(strip: Strip) -> str:
    """A strip of frames; a video with fewer frames than others takes less of the width."""
    alt = f"{count(strip.frames, 'frame')} of video {strip.video_id}"
    return (
        f'<img src="{strip.uri}" alt="{text(alt)}" width="{strip.width}" height="{strip.height}" '
        f'style="width:{100 * strip.frames / SHOWN_FRAMES:g}%">'
    )

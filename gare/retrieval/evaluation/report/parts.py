"""Pieces of HTML: escaped text, figures, tables, bars. Every value from outside goes through ``text``."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence

from gare.retrieval.evaluation.report.groups import Group
from gare.retrieval.evaluation.report.pictures import SHOWN_FRAMES, Strip

BAR_WIDTH, BAR_HEIGHT = 180, 18
CHART_WIDTH, CHART_HEIGHT = 400, 200
FLOOR, CEILING = 24, 36
"""Room below the bars of a chart for its buckets, above them for the counts."""


def text(value: object) -> str:
    """A value as escaped text; control characters and halves of surrogate pairs become replacement characters."""
    shown = "".join(c if c in "\t\n" or unicodedata.category(c) not in {"Cc", "Cs"} else "\ufffd" for c in str(value))
    return html.escape(shown)


def caption(value: str) -> str:
    """Somebody's sentence, whose writing direction does not spread to what stands around it."""
    return f'<q dir="auto">{text(value)}</q>'


def share(percent: float) -> str:
    """A share in percent with one decimal."""
    return f"{percent:.1f}&nbsp;%"


def span(interval: tuple[float, float] | None) -> str:
    """An interval, or that there is none."""
    return "" if interval is None else f"{interval[0]:.1f}\u2013{interval[1]:.1f}"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table that scrolls sideways by itself; the first cell of a row is its header. Cells are HTML."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table class="{kind}"><caption>{title}'
        f"</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


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

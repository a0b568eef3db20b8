"""Pictures as inline SVG. Colours are the page's, by class; words inside are escaped, and dots say what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gare.common.page.parts import text
from tune.comparison.axis import Axis, span_axis
from tune.comparison.curves import Points

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 10, 40
SLANTED = 84
"""Room below a panel whose labels are slanted."""
LETTER = 6.6
"""The width of a letter of a label, at most."""
LONGEST = 14
STRIP_WIDTH, STRIP_HEIGHT = 170, 18
LANE, LANES_HEIGHT = 160, 360
LANE_LETTERS = 24


@dataclass(frozen=True)
class Mark:
    """A setting or trial in a picture. ``kind``: CSS classes: best, cut (stopped early), or nothing."""

    x: Any
    y: float
    interval: tuple[float, float] | None
    kind: str
    says: str


@dataclass(frozen=True)
class Line:
    """A line through points, ending in a cross where its trial was stopped."""

    points: Points
    kind: str
    says: str
    cross: bool


def reach(values: Sequence[float], intervals: Sequence[tuple[float, float] | None] = ()) -> Axis:
    """The axis that all values fit on, and intervals as far as they do not crowd the values together."""
    low, high = min(values), max(values)
    # Two seeds can have an interval of many times the range: such a bar is cut at the edge.
    room = max(high - low, 0.02 * max(abs(low), abs(high)))
    ends = [end for interval in intervals if interval for end in interval]
    low = max(min([low, *ends]), low - room)
    return span_axis(low, min(max([high, *ends]), high + room))


class Panel:
    """A picture with two axes."""

    def __init__(self, title: str, x: Axis, y: Axis, label: str) -> None:
        self._title, self._x, self._y, self._label = title, x, y, label
        most = (WIDTH - LEFT - RIGHT) / max(1, len(x.labels))
        self._slanted = any(len(_short(each)) * LETTER > most for each in x.labels)
        self._height = HEIGHT + (SLANTED - BOTTOM if self._slanted else 0)
        self._parts: list[str] = []

    def px(self, value: Any) -> float:
        """Where a value is from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self._x.at(value)

    def py(self, value: float) -> float:
        """Where a value is from the top, inside the frame."""
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(self._y.at(value), 0.0), 1.0))

    def level(self, x: Any, y: float) -> None:
        """Draw a short level line: the mean at a value."""
        middle, half = self.px(x), 14.0
        self._parts.append(f'<path class="mean" d="M{middle - half:.1f} {self.py(y):.1f}h{2 * half:.1f}"/>')

    def mark(self, mark: Mark, aside: float = 0.0) -> None:
        """Draw a dot, ``aside`` of its place, with its interval."""
        x, y = self.px(mark.x) + aside, self.py(mark.y)
        bar = ""
        if mark.interval:
            low, high = (self.py(end) for end in mark.interval)
            bar = f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        self._parts.append(
            f'<g class="mark {mark.kind}"><title>{text(mark.says)}</title>{bar}{_dot(x, y, mark.kind)}</g>'
        )

    def line(self, line: Line) -> None:
        """Draw a line."""
        if not line.points:
            return
        places = [(self.px(x), self.py(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        end_x, end_y = places[-1]
        end = f'<path d="M{end_x - 4:.1f} {end_y - 4:.1f}l8 8m0-8l-8 8"/>' if line.cross else ""
        if len(places) == 1 and not line.cross:
            end = f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="2.5"/>'
        self._parts.append(f'<g class="line {line.kind}"><title>{text(line.says)}</title><path d="M{path}"/>{end}</g>')

    def svg(self, caption: str) -> str:
        """Finish the picture; ``caption``: plain text above it."""
        frame = [self._grid(place, label) for place, label in self._y.ticks if 0 <= place <= 1]
        frame += [self._tick(place, label) for place, label in self._x.ticks if 0 <= place <= 1]
        middle = (LEFT + WIDTH - RIGHT) / 2
        frame.append(f'<text class="axis" x="{middle:.1f}" y="{self._height - 4}">{text(self._label)}</text>')
        return (
            f'<figure class="panel"><figcaption>{text(caption)}</figcaption><svg viewBox="0 0 {WIDTH} {self._height}" '
            f'role="img" aria-label="{text(self._title)}">{"".join(frame)}{"".join(self._parts)}</svg></figure>'
        )

    def _grid(self, place: float, label: str) -> str:
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - place)
        return (
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{text(label)}</text>'
        )

    def _tick(self, place: float, label: str) -> str:
        x, y = LEFT + (WIDTH - LEFT - RIGHT) * place, HEIGHT - BOTTOM + 16
        if not self._slanted:
            return f'<text x="{x:.1f}" y="{y}">{text(_short(label))}</text>'
        turned = f'transform="rotate(-35 {x:.1f} {y - 4})"'
        return f'<text class="end" x="{x:.1f}" y="{y - 4}" {turned}>{text(_short(label))}</text>'


def strip(mean: float, interval: tuple[float, float] | None, scale: Axis, kind: str) -> str:
    """A dot with its interval, small enough for a cell of a table."""
    middle = STRIP_HEIGHT / 2

    def x(value: float) -> float:
        return 5 + (STRIP_WIDTH - 10) * min(max(scale.at(value), 0.0), 1.0)

    bar = ""
    if interval:
        bar = f'<path class="whisker" d="M{x(interval[0]):.1f} {middle}H{x(interval[1]):.1f}"/>'
    return (
        f'<svg class="strip" width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" viewBox="0 0 {STRIP_WIDTH} {STRIP_HEIGHT}" '
        f'aria-hidden="true"><path class="grid" d="M0 {middle}H{STRIP_WIDTH}"/>'
        f'<g class="mark {kind}">{bar}{_dot(x(mean), middle, kind)}</g></svg>'
    )


def lanes(title: str, axes: Sequence[tuple[str, Axis]], rows: Sequence[tuple[list[Any], str, str]]) -> str:
    """Parallel coordinates: an upright axis for each name, a line for each row of (values, CSS classes, words)."""
    width, top, bottom = LANE * len(axes), 44, LANES_HEIGHT - 14
    places = [LANE * (number + 0.5) for number in range(len(axes))]

    def y(axis: Axis, value: Any) -> float:
        return bottom - (bottom - top) * axis.at(value)

    lines = []
    for values, kind, says in rows:
        points = (f"{x:.1f} {y(a, v):.1f}" for x, (_, a), v in zip(places, axes, values, strict=True))
        lines.append(f'<g class="line {kind}"><title>{text(says)}</title><path d="M{"L".join(points)}"/></g>')
    frame = []
    for x, (name, a) in zip(places, axes, strict=True):
        frame.append(f'<path class="rule" d="M{x:.1f} {top}V{bottom}"/>')
        section, _, last = name.rpartition(".")
        for line, part in ((14, section), (28, last)):
            shown = part if len(part) <= LANE_LETTERS else "\u2026" + part[1 - LANE_LETTERS :]
            frame.append(f'<text class="axis" x="{x:.1f}" y="{line}">{text(shown)}</text>')
        for place, label in _spaced(a.ticks):
            at = bottom - (bottom - top) * place
            frame.append(f'<text class="start halo" x="{x + 5:.1f}" y="{at + 4:.1f}">{text(_short(label))}</text>')
    return (
        f'<div class="scroll" role="region" aria-label="{text(title)}" tabindex="0"><svg class="lanes" '
        f'width="{width}" height="{LANES_HEIGHT}" viewBox="0 0 {width} {LANES_HEIGHT}" role="img" '
        f'aria-label="{text(title)}">{"".join(lines)}{"".join(frame)}</svg></div>'
    )


def share_bar(share: float, most: float) -> str:
    """A bar of a share, against the largest one."""
    width = (STRIP_WIDTH - 2) * share / most if most else 0.0
    return (
        f'<svg class="strip" width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" viewBox="0 0 {STRIP_WIDTH} {STRIP_HEIGHT}" '
        f'aria-hidden="true"><rect class="share" x="0" y="4" width="{max(width, 1):.1f}" height="10"/></svg>'
    )


def _dot(x: float, y: float, kind: str) -> str:
    if "best" in kind:
        return f'<path class="dot" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"/>'
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.8"/>'


def _short(label: str) -> str:
    """Leave out the middle of a long label: both ends tell names apart."""
    half = (LONGEST - 1) // 2
    return label if len(label) <= LONGEST else f"{label[:half]}\u2026{label[-half:]}"


def _spaced(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out labels that would stand on the one below."""
    kept: list[tuple[float, str]] = []
    for place, label in sorted(ticks):
        if 0 <= place <= 1 and (not kept or place - kept[-1][0] > 1 / 22):
            kept.append((place, label))
    return kept

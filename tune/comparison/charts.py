"""Draw a comparison's pictures with matplotlib, in the page's colours; marks and lines have tooltips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gare.common.page.figures import BAR, FAINT, GOOD, GROUND, INK, LINE, canvas, inline_svg
from gare.common.redact import printable
from tune.comparison.labels import Axis, span_axis
from tune.comparison.settings import Points

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 10, 40
SLANTED = 84
"""Space below a panel with slanted labels."""
LETTER = 6.6
"""The largest width of a letter in a label."""
LONGEST = 14
LANE, LANES_HEIGHT = 160, 360
LANE_LETTERS = 24


@dataclass(frozen=True)
class Mark:
    """A setting in a picture. ``kind``: of best, cut (stopped early) and weak (far from the best)."""

    x: Any
    y: float
    interval: tuple[float, float] | None
    kind: str
    says: str


@dataclass(frozen=True)
class Line:
    """A line through points; ``kind`` as for Mark."""

    points: Points
    kind: str
    says: str


def reach(values: Sequence[float], intervals: Sequence[tuple[float, float] | None] = ()) -> Axis:
    """Return an axis for all values, and for intervals as far as they do not crowd the values together."""
    low, high = min(values), max(values)
    # The interval of two seeds can be many times the range: such a bar is cut at the edge.
    room = max(high - low, 0.02 * max(abs(low), abs(high)))
    ends = [end for interval in intervals if interval for end in interval]
    low = max(min([low, *ends]), low - room)
    return span_axis(low, min(max([high, *ends]), high + room))


class Panel:
    """A picture with two axes, whose coordinates go from 0 to 1."""

    def __init__(self, title: str, x: Axis, y: Axis, label: str) -> None:
        self._title, self._x, self._y = title, x, y
        room = WIDTH - LEFT - RIGHT
        slanted = any(len(_short(each)) * LETTER * len(x.labels) > room for each in x.labels)
        height = HEIGHT + (SLANTED - BOTTOM if slanted else 0)
        self._figure = canvas(WIDTH, height)
        box = (LEFT / WIDTH, 1 - (HEIGHT - BOTTOM) / height, room / WIDTH, (HEIGHT - TOP - BOTTOM) / height)
        self._axes = self._figure.add_axes(box, xlim=(0, 1), ylim=(0, 1), frameon=False)
        turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        self._axes.set_xticks(*_within(x), **turned)
        self._axes.set_yticks(*_within(y))
        self._axes.tick_params(length=0, pad=6, labelcolor=INK)
        self._axes.grid(axis="y", color=LINE, linewidth=1)
        self._figure.text((LEFT + room / 2) / WIDTH, 6 / height, printable(label), color=FAINT, ha="center")
        self._says: dict[str, str] = {}

    def level(self, x: Any, y: float) -> None:
        """Draw a short horizontal line: the mean at a value."""
        middle, half = self._x.at(x), 14 / (WIDTH - LEFT - RIGHT)
        self._plot([middle - half, middle + half], [y, y], color=FAINT, linewidth=2)

    def mark(self, mark: Mark, aside: float = 0.0) -> None:
        """Draw a dot with its interval, ``aside`` pixels from its place."""
        x = self._x.at(mark.x) + aside / (WIDTH - LEFT - RIGHT)
        colour = GOOD if "best" in mark.kind else BAR
        gid = self._named(mark.says)
        if mark.interval:
            self._plot([x, x], mark.interval, color=colour, linewidth=1.5, gid=gid)
        self._plot([x], [mark.y], gid=gid, **_dot(mark.kind))

    def line(self, line: Line) -> None:
        """Draw a line, with a cross at its end if its trial was stopped."""
        gid = self._named(line.says)
        xs, ys = [self._x.at(x) for x, _ in line.points], [y for _, y in line.points]
        style = _stroke(line.kind)
        self._plot(xs, ys, gid=gid, **style)
        if "cut" in line.kind or len(xs) == 1:
            end = {"marker": "x", "markersize": 8} if "cut" in line.kind else {"marker": "o", "markersize": 5}
            self._plot(xs[-1:], ys[-1:], gid=gid, **style | {"linestyle": "", **end})

    def svg(self, name: str) -> Markup:
        """Finish the picture; ``name``: unique on its page."""
        return inline_svg(self._figure, name, self._title, self._says)

    def _plot(self, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
        self._axes.plot(xs, [min(max(self._y.at(y), 0.0), 1.0) for y in ys], clip_on=False, **style)

    def _named(self, says: str) -> str:
        gid = f"says-{len(self._says)}"
        self._says[gid] = says
        return gid


def lanes(
    name: str, title: str, axes: Sequence[tuple[str, Axis]], rows: Sequence[tuple[list[Any], str, str]]
) -> Markup:
    """Draw parallel coordinates: an upright axis for each name, a line for each row of (values, kind, tooltip)."""
    figure = canvas(LANE * len(axes), LANES_HEIGHT)
    top, bottom = 44, 14
    box = (0, bottom / LANES_HEIGHT, 1, 1 - (top + bottom) / LANES_HEIGHT)
    plot = figure.add_axes(box, xlim=(-0.5, len(axes) - 0.5), ylim=(0, 1), frameon=False)
    plot.set_axis_off()
    says = {f"says-{number}": words for number, (_, _, words) in enumerate(rows)}
    for gid, (values, kind, _) in zip(says, rows, strict=True):
        places = [a.at(value) for (_, a), value in zip(axes, values, strict=True)]
        plot.plot(range(len(axes)), places, clip_on=False, gid=gid, **_stroke(kind))
    ground = {"facecolor": GROUND, "edgecolor": "none", "pad": 1, "alpha": 0.75}
    for number, (key, a) in enumerate(axes):
        plot.plot([number, number], [0, 1], color=FAINT, linewidth=1, clip_on=False)
        for height, part in zip((30, 16), key.rpartition(".")[::2], strict=True):
            shown = printable(part if len(part) <= LANE_LETTERS else "\u2026" + part[1 - LANE_LETTERS :])
            plot.annotate(shown, (number, 1), (0, height - 8), textcoords="offset pixels", color=FAINT, ha="center")
        for place, label in _spaced(a.ticks):
            text = plot.annotate(
                _short(label), (number, place), (5, 0), textcoords="offset pixels", color=INK, va="center"
            )
            text.set_bbox(ground)
    return inline_svg(figure, name, title, says)


def _dot(kind: str) -> dict[str, Any]:
    best = {"marker": "D", "markersize": 8.5} if "best" in kind else {"marker": "o", "markersize": 7.6}
    colour = GOOD if "best" in kind else BAR
    if "cut" in kind:
        return best | {"markerfacecolor": GROUND, "markeredgecolor": colour, "markeredgewidth": 1.5}
    return best | {"markerfacecolor": colour, "markeredgecolor": GROUND, "markeredgewidth": 1}


def _stroke(kind: str) -> dict[str, Any]:
    dashed = {"linestyle": (0, (4, 3))} if "cut" in kind else {}
    if "best" in kind:
        return {"color": GOOD, "linewidth": 3} | dashed
    weak = "weak" in kind
    return {"color": FAINT if weak else BAR, "linewidth": 1.3, "alpha": 0.35 if weak else 0.55} | dashed


def _short(label: str) -> str:
    """Leave out the middle of a long label: both ends distinguish names."""
    half = (LONGEST - 1) // 2
    return printable(label if len(label) <= LONGEST else f"{label[:half]}\u2026{label[-half:]}")


def _within(axis: Axis) -> tuple[list[float], list[str]]:
    kept = [(place, _short(label)) for place, label in axis.ticks if 0 <= place <= 1]
    return [place for place, _ in kept], [label for _, label in kept]


def _spaced(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out labels that would overlap the one below."""
    kept: list[tuple[float, str]] = []
    for place, label in sorted(ticks):
        if 0 <= place <= 1 and (not kept or place - kept[-1][0] > 1 / 22):
            kept.append((place, label))
    return kept

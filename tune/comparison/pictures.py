"""Choose the pictures of a comparison and their contents."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tune.comparison.charts import Line, Mark, Panel, lanes, reach
from tune.comparison.labels import Axis, axis, bounds, duration, figure, plain_metric, short_keys, span_axis
from tune.comparison.result import Comparison
from tune.comparison.settings import Points, Setting, described, varying

if TYPE_CHECKING:
    from markupsafe import Markup

Picture = tuple[str, "Markup"]
"""A caption and its picture."""

SPREAD = 44.0
GOLDEN = 0.618034
QUARTER = 4
MOST_MEANS = 12


def kind_of(found: Comparison, setting: Setting) -> str:
    """Return how a setting is drawn: best, cut (stopped early), both, or plain."""
    best = "best" if found.ranked and setting is found.ranked[0] else ""
    return f"{best} {'cut' if setting.cut else ''}".strip()


def scale_of(found: Comparison) -> Axis:
    """Return the metric's axis, including the intervals of settings."""
    return reach(_means(found), [setting.interval for setting in found.ranked])


def sensitivity(found: Comparison) -> list[Picture]:
    """Draw a panel for each key that varies, and for the cases."""
    wanted = [
        (short, [setting.values[key] for setting in found.ranked], found.forms.get(key))
        for key, short in zip(found.keys, short_keys(found.keys), strict=True)
        if key in varying(found.ranked, found.keys)
    ]
    if len({setting.case for setting in found.ranked}) > 1:
        wanted.insert(0, ("case", [setting.case for setting in found.ranked], None))
    return [_panel(found, f"sensitivity-{number}", *each) for number, each in enumerate(wanted)]


def parallel(found: Comparison) -> Markup | None:
    """Draw parallel coordinates over the keys that vary; None with fewer than two."""
    keys = varying(found.ranked, found.keys)
    columns: list[tuple[str, list[Any], str | None]] = [
        (short, [setting.values[key] for setting in found.ranked], found.forms.get(key))
        for key, short in zip(keys, short_keys(keys), strict=True)
    ]
    if len({setting.case for setting in found.ranked}) > 1:
        columns.insert(0, ("case", [setting.case for setting in found.ranked], None))
    if len(columns) < 2 or len(found.ranked) < 2:
        return None
    means = _means(found)
    axes = [(name, axis(values, form=form)) for name, values, form in columns] + [(found.metric, reach(means))]
    strong = -(-len(found.ranked) // QUARTER)
    rows = []
    # The best are drawn last, on top of the others.
    for place in reversed(range(len(found.ranked))):
        setting = found.ranked[place]
        kind = kind_of(found, setting) + ("" if place < strong else " weak")
        values = [column[place] for _, column, _ in columns] + [means[place]]
        rows.append((values, kind, _says(found, setting)))
    return lanes("parallel", f"Parallel coordinates of {len(rows)} settings", axes, rows)


def curve_charts(found: Comparison) -> list[Picture]:
    """Draw the dev metric by epoch, and the loss by step."""
    best = {trial.name for trial in found.ranked[0].trials} if found.ranked else set()
    labels = {t.name: setting.label for setting in [*found.ranked, *found.unranked] for t in setting.trials}
    charts = []
    for name, along, caption in (("metric", "epoch", plain_metric(found.metric)), ("loss", "step", "training loss")):
        drawn = [(curve, points) for curve in found.curves if (points := getattr(curve, name))]
        if not drawn:
            continue
        lines = []
        for curve, points in sorted(drawn, key=lambda pair: pair[0].trial in best):
            kind = "best" if curve.trial in best else ""
            cut = curve.status == "stopped"
            of = f" of {labels[curve.trial]}" if labels[curve.trial] != curve.trial else ""
            says = f"{curve.trial}{of}, {curve.status}: {figure(points[-1][1])} at {along} {points[-1][0]:.0f}"
            lines.append(Line(points, f"{kind} {'cut' if cut else ''}".strip(), says))
        charts.append(_lines(name, caption, along, lines))
    return charts


def cost_chart(found: Comparison) -> Picture | None:
    """Draw each setting's metric against the time of its trials; None with fewer than two."""
    timed = [setting for setting in found.ranked if setting.train_s or setting.seconds]
    if len(timed) < 2:
        return None
    training = all(setting.train_s for setting in timed)
    times = [setting.train_s if training else setting.seconds for setting in timed]
    y = reach([s.estimate.mean for s in timed if s.estimate])
    what = "training" if training else "its trials"
    panel = Panel(f"{plain_metric(found.metric)} by time", span_axis(0.0, max(times)), y, f"seconds of {what}")
    for setting, time in zip(reversed(timed), reversed(times), strict=True):
        if setting.estimate:
            says = f"{_says(found, setting)}; {duration(time)}"
            panel.mark(Mark(time, setting.estimate.mean, None, kind_of(found, setting), says))
    return f"{plain_metric(found.metric)} by time, all seeds of a setting together", panel.svg("cost")


def _panel(found: Comparison, place_on_page: str, name: str, values: list[Any], form: str | None) -> Picture:
    means = _means(found)
    scale = axis(values, form=form)
    panel = Panel(f"{plain_metric(found.metric)} by {name}", scale, scale_of(found), name)
    groups: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        groups[scale.at(value)].append(place)
    for places in groups.values():
        # Drawn numbers coincide by chance: their mean would not mean anything.
        if len(places) > 1 and len(groups) <= MOST_MEANS:
            panel.level(values[places[0]], sum(means[place] for place in places) / len(places))
    for place in reversed(range(len(values))):
        setting = found.ranked[place]
        aside = _aside(found, groups[scale.at(values[place])], place, len(scale.labels))
        mark = Mark(values[place], means[place], setting.interval, kind_of(found, setting), _says(found, setting))
        panel.mark(mark, aside)
    return name, panel.svg(place_on_page)


def _aside(found: Comparison, places: list[int], place: int, categories: int) -> float:
    """Return a dot's offset in its strip in pixels, by the order of the trials, which has no meaning."""
    if not categories or len(places) == 1:
        return 0.0
    order = sorted(places, key=lambda each: found.ranked[each].trials[0].name)
    # Steps of the golden ratio fill the strip evenly for any number of dots.
    return ((order.index(place) * GOLDEN) % 1.0 - 0.5) * SPREAD * min(1.0, 6 / categories)


def _lines(name: str, caption: str, along: str, lines: list[Line]) -> Picture:
    points: Points = [point for line in lines for point in line.points]
    scale = axis([int(x) if x == int(x) else x for x, _ in points], form="uniform")
    panel = Panel(f"{caption} by {along}", scale, reach([y for _, y in points]), along)
    for line in lines:
        panel.line(line)
    return caption, panel.svg(f"curves-{name}")


def _means(found: Comparison) -> list[float]:
    return [setting.estimate.mean for setting in found.ranked if setting.estimate]


def _says(found: Comparison, setting: Setting) -> str:
    mean = figure(setting.estimate.mean if setting.estimate else None)
    interval = f" ({bounds(setting.interval)})" if setting.interval else ""
    values = f", {described(setting, found.keys)}" if found.keys else ""
    return f"{setting.label}: {mean}{interval}{values}"

"""The sensitivity plot: the metric against every swept key, a panel each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gare.common.files import atomic_file
from gare.config import Config
from tune.compare import cell, plain_metric, short_keys
from tune.ledger import Trial

COLUMNS = 3
PANEL_INCHES = (4.2, 3.4)
LOG_SPAN = 50.0
SPREAD = 0.14
FEW = 5
LABEL_CHARACTERS = 18
DONE, STOPPED, BEST, MEAN = "#1f5fa8", "#8fb3d9", "#c4421a", "#999999"


def write_plot(path: Path, config: Config, name: str, ranked: Sequence[Trial]) -> None:
    """Draw the ranked trials, best first, and write a PNG, atomically."""
    keys = sorted(config.sweep.space)
    columns = min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    width = max(PANEL_INCHES[0] * columns, 6.0)
    figure = Figure(figsize=(width, PANEL_INCHES[1] * rows + 0.9), layout="constrained", dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    metric = config.sweep.metric
    for panel, key, label in zip(panels, keys, short_keys(keys), strict=False):
        values = [trial.overrides[key] for trial in ranked]
        scores = np.array([trial.metrics[metric] for trial in ranked])
        if _numeric(values):
            positions = np.array(values, float)
            _axis(panel, values, next(iter(config.sweep.space[key])))
            _trend(panel, positions, scores)
        else:
            positions = _strips(panel, values, [trial.name for trial in ranked], scores)
        _points(panel, positions, scores, ranked)
        panel.set_xlabel(label)
        panel.margins(x=0.08)
        panel.grid(visible=True, alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(keys) :]:
        panel.set_visible(False)
    for row in range(rows):
        panels[row * columns].set_ylabel(plain_metric(metric))
    shown = {label: handle for p in panels for handle, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False)
    plural = "s" if len(ranked) > 1 else ""
    figure.suptitle(f"{name}: {plain_metric(metric)} over {len(ranked)} trial{plural}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _points(panel: Any, positions: Any, scores: Any, ranked: Sequence[Trial]) -> None:
    stopped = np.array([trial.status == "stopped" for trial in ranked])
    rest = np.arange(len(ranked)) > 0
    full, hollow = rest & ~stopped, rest & stopped
    if full.any():
        panel.scatter(positions[full], scores[full], s=38, color=DONE, label="trial", zorder=3)
    if hollow.any():
        style = {"facecolors": "white", "edgecolors": STOPPED, "linewidths": 1.5}
        panel.scatter(positions[hollow], scores[hollow], s=38, label="stopped early", zorder=3, **style)
    panel.scatter(positions[:1], scores[:1], s=150, marker="*", color=BEST, label="best", zorder=4)


def _groups(places: Sequence[Any], scores: Any) -> dict[Any, float]:
    """Average the scores at every place; empty where no place has two, since the dots say it all."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for place, score in zip(places, scores.tolist(), strict=True):
        groups[place].append(score)
    repeated = max(map(len, groups.values())) > 1
    return {place: float(np.mean(groups[place])) for place in sorted(groups)} if repeated else {}


def _trend(panel: Any, positions: Any, scores: Any) -> None:
    means = _groups(positions.tolist(), scores)
    if len(means) > 1:
        panel.plot(list(means), list(means.values()), color=MEAN, lw=1.4, label="mean per value", zorder=2)


def _strips(panel: Any, values: Sequence[Any], names: Sequence[str], scores: Any) -> Any:
    """Make a strip per distinct value; trials are spread in it by their number, which means nothing."""
    labels = sorted({cell(value) for value in values})
    centres = [labels.index(cell(value)) for value in values]
    panel.set_xticks(range(len(labels)), [_shortened(label) for label in labels])
    panel.set_xlim(-0.5, len(labels) - 0.5)
    for number, (centre, mean) in enumerate(_groups(centres, scores).items()):
        label = "mean per value" if number == 0 else None
        panel.hlines(mean, centre - 2 * SPREAD, centre + 2 * SPREAD, color=MEAN, lw=1.4, label=label, zorder=2)
    order = sorted(range(len(names)), key=names.__getitem__)
    # Steps of the golden ratio fill the strip evenly for any number of trials.
    offsets = {index: (number * 0.618034) % 1.0 - 0.5 for number, index in enumerate(order)}
    return np.array([centre + 2 * SPREAD * offsets[index] for index, centre in enumerate(centres)])


def _axis(panel: Any, values: Sequence[Any], form: str) -> None:
    """Choose the scale of a numeric key, and ticks at its values where they are few."""
    distinct = sorted(set(values))
    above = [value for value in distinct if value > 0]
    wide = form != "uniform" and distinct[0] >= 0 and bool(above) and above[-1] / above[0] > LOG_SPAN
    if form == "loguniform" or (wide and distinct[0] > 0):
        panel.set_xscale("log")
        # On a short axis the labels between the powers of ten run into each other.
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if above[-1] / above[0] < LOG_SPAN else (1.0,)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif wide:
        # Zero has no logarithm: the axis is linear up to the smallest value above it.
        panel.set_xscale("symlog", linthresh=above[0], linscale=0.5)
    if len(distinct) <= FEW and form != "loguniform":
        panel.set_xticks(distinct, [cell(value) for value in distinct])
        panel.minorticks_off()
    elif not wide and form != "loguniform":
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=all(isinstance(value, int) for value in values)))


def _shortened(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS else "\u2026" + label[1 - LABEL_CHARACTERS :]


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

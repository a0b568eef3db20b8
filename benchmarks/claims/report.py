"""Print the tables of docs/results.md from measured rows, and draw its figure.

    python benchmarks/claims/report.py claims.json... [--title TEXT...] [--metric t2v/R@1] [--baseline baseline]
        [--by data.caption_noise] [--figure docs/claims.svg]

A table and a panel per file: means over seeds, and differences from the baseline seed by seed, with 95 % intervals
(Student's t).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from tune.comparison.statistics import Difference, difference, estimate

COLOURS = {"all terms": "#1a9850", "increment": "#7b3294", "X-Pool": "#e07b00", "mean pooling": "#9e9e9e"}
LABELS = {"all terms": "GARE, all terms", "increment": "GARE, no terms"}
Scores = dict[str, dict[float, dict[int, float]]]
"""case -> value of the varied key -> seed -> score"""


def scores(rows: list[dict[str, Any]], metric: str, by: str) -> Scores:
    """Return the test metric of each case, value and seed."""
    found: Scores = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row["case"]][float(row["overrides"].get(by, 0.0))][row["seed"]] = row["test"][metric]
    return found


def against(found: Scores, case: str, value: float, baseline: str) -> Difference | None:
    """Compare a case with the baseline, seed by seed."""
    return None if case == baseline else difference(found[case][value], found[baseline][value])


def table(found: Scores, baseline: str) -> str:
    """Return a Markdown table: a row per case, and per value its mean and its difference from the baseline."""
    values = sorted({value for of_case in found.values() for value in of_case})
    lines = ["| | " + " | ".join(f"{value:g} | against {baseline}" for value in values) + " |"]
    lines.append("| --- |" + " --- |" * (2 * len(values)))
    for case, of_case in found.items():
        cells = []
        for value in values:
            mean = estimate(list(of_case[value].values())) if of_case[value] else None
            cells += ["" if mean is None else f"{mean.mean:.1f}", said(against(found, case, value, baseline))]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def said(gap: Difference | None) -> str:
    """Return a difference with its interval."""
    if gap is None:
        return ""
    return f"{gap.mean:+.1f}" + ("" if gap.interval is None else f" ({gap.interval[0]:+.1f} to {gap.interval[1]:+.1f})")


def draw(panels: dict[str, Scores], baseline: str, metric: str, path: Path) -> None:
    """Draw each case's difference from the baseline over the varied key, a panel per file."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        axis.axhline(0, color="#222222", linewidth=1)
        cases = [case for case in COLOURS if case in found]
        for place, case in enumerate(cases):
            shift = (place - (len(cases) - 1) / 2) * 1.8
            draw_case(axis, case, {v: against(found, case, v, baseline) for v in sorted(found[case])}, shift)
        axis.set_xticks(sorted({100 * value for of_case in found.values() for value in of_case}))
        axis.set_xlabel("wrong captions in training, %")
        axis.set_title(title, fontsize=11)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel(f"test {metric} minus that of the {baseline}, points")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    figure.suptitle(f"Above the line: better than the {baseline} (mean and 95 % interval over seeds)", fontsize=12)
    figure.savefig(path, metadata={"Date": None})


def draw_case(axis: Any, case: str, gaps: dict[float, Difference | None], shift: float) -> None:
    """Draw one case's points with their intervals."""
    drawn = [(100 * value + shift, gap.mean, gap.interval) for value, gap in gaps.items() if gap and gap.interval]
    below, above = [mean - low for _, mean, (low, _) in drawn], [high - mean for _, mean, (_, high) in drawn]
    places, means = [x for x, *_ in drawn], [mean for _, mean, _ in drawn]
    axis.errorbar(places, means, [below, above], fmt="o", color=COLOURS[case], capsize=4, label=LABELS.get(case, case))


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--title", action="append", default=[], help="of a file's panel, in the files' order")
    parser.add_argument("--metric", default="t2v/R@1")
    parser.add_argument("--baseline", default="baseline")
    parser.add_argument("--by", default="data.caption_noise")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    titles = options.title or [path.stem for path in options.rows]
    panels = {}
    for title, path in zip(titles, options.rows, strict=True):
        rows = json.loads(path.read_text(encoding="utf-8"))
        panels[title] = scores(rows, options.metric, options.by)
        hours = sum(row["train_s"] for row in rows) / 3600
        print(f"{title}\n\n{table(panels[title], options.baseline)}\n\n{len(rows)} runs, {hours:.2f} h of training.\n")
    if options.figure is not None:
        draw(panels, options.baseline, options.metric, options.figure)


if __name__ == "__main__":
    main()

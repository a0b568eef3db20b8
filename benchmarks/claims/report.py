"""Print the tables of docs/results.md from measured rows, and draw its figure.

    python benchmarks/claims/report.py claims.json [--sweep NAME...] [--metric t2v/R@1] [--baseline baseline]
        [--by data.caption_noise] [--figure docs/claims.svg]

Means over seeds, and differences from the baseline seed by seed, with the 95 % interval of Student's t.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from tune.comparison.statistics import Difference, difference, estimate

COLOURS = {"all terms": "#1a9850", "increment": "#7b3294", "X-Pool": "#e07b00", "mean pooling": "#9e9e9e"}
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


def draw(found: Scores, baseline: str, metric: str, path: Path) -> None:
    """Draw each case's difference from the baseline over the varied key."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.axhline(0, color="#222222", linewidth=1)
    cases = [case for case in COLOURS if case in found]
    for place, case in enumerate(cases):
        shift = (place - (len(cases) - 1) / 2) * 1.6
        points = [(100 * value, against(found, case, value, baseline)) for value in sorted(found[case])]
        drawn = [(x + shift, gap) for x, gap in points if gap is not None and gap.interval is not None]
        means = [gap.mean for _, gap in drawn]
        spans = [[gap.mean - gap.interval[0] for _, gap in drawn], [gap.interval[1] - gap.mean for _, gap in drawn]]  # type: ignore[index]
        axis.errorbar([x for x, _ in drawn], means, spans, fmt="o", color=COLOURS[case], capsize=4, label=case)
    axis.set_xticks(sorted({100 * value for of_case in found.values() for value in of_case}))
    axis.set_xlabel("wrong captions in training, %")
    axis.set_ylabel(f"test {metric} minus {baseline}, points")
    axis.set_title(f"Above the line: better than the {baseline} (95 % intervals over seeds)", fontsize=11)
    axis.legend(frameon=False, ncols=len(cases), loc="upper center", bbox_to_anchor=(0.5, -0.16))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--sweep", action="append", help="only rows of this sweep")
    parser.add_argument("--metric", default="t2v/R@1")
    parser.add_argument("--baseline", default="baseline")
    parser.add_argument("--by", default="data.caption_noise")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.rows.read_text(encoding="utf-8"))
    rows = [row for row in rows if options.sweep is None or row["sweep"] in options.sweep]
    found = scores(rows, options.metric, options.by)
    print(table(found, options.baseline))
    print(f"\n{len(rows)} runs, {sum(row['train_s'] for row in rows) / 3600:.2f} hours of training.")
    if options.figure is not None:
        draw(found, options.baseline, options.metric, options.figure)


if __name__ == "__main__":
    main()

"""Render the comparison as one HTML page, from ``comparison.html`` and the drawings of ``pictures``."""

from __future__ import annotations

from typing import Any

from gare.common.page import render as render_page
from gare.common.page import share
from gare.common.page.figures import drawing
from gare.common.redact import printable
from tune.comparison import labels
from tune.comparison.importance import PER_KEY
from tune.comparison.labels import duration, figure, plain_metric, short_keys
from tune.comparison.pictures import cost_chart, curve_charts, kind_of, parallel, scale_of, sensitivity
from tune.comparison.result import Comparison
from tune.comparison.settings import Setting, described
from tune.comparison.statistics import LEVEL

MOST_ROWS = 20
STRIP = 170.0
TAGS = {"better": "better", "worse": "worse", "same": "not told apart"}


@drawing()
def render(found: Comparison) -> str:
    """Render the whole page."""
    panels, lanes, curves = sensitivity(found), parallel(found), curve_charts(found)
    weighed = found.importance
    parts = (
        ("ranking", "Ranking", True),
        ("noise", "Beyond seed noise", found.against),
        ("sensitivity", "The metric by each key", panels),
        ("parallel", "All keys at once", lanes),
        ("importance", "Which keys matter", weighed and (weighed.warning or weighed.explained is not None)),
        ("curves", "Learning curves", curves),
        ("cost", "Cost", found.cost.seconds),
    )
    return render_page(
        __package__,
        "comparison.html",
        [(name, title) for name, title, shown in parts if shown],
        title=f"Sweep {found.name}",
        found=found,
        metric=plain_metric(found.metric),
        values=described(found.ranked[0], found.keys) if found.ranked else "",
        verdicts=_verdicts(found),
        about=_about(found),
        **_table(found),
        judged=sorted((e for e in found.against if e.verdict in TAGS), key=lambda e: list(TAGS).index(e.verdict)),
        open=[each for each in found.against if each.verdict == "unknown"],
        tags=TAGS,
        legend=_legend(found),
        panels=panels,
        lanes=lanes,
        largest=max((row.share or 0.0 for row in weighed.keys), default=0.0) if weighed else 0.0,
        per_key=PER_KEY,
        curves=curves,
        cost=_cost(found),
        timed=cost_chart(found),
    )


def _verdicts(found: Comparison) -> str:
    verdicts = [each.verdict for each in found.against]
    if set(verdicts) <= {"unknown"}:
        return "Whether it differs from the others is open." if verdicts and found.reference is None else ""
    name = f"the baseline {found.reference}" if found.reference is not None else "it"
    parts = [
        f"{verdicts.count(verdict)} {words} {name}"
        for verdict, words in (
            ("better", "better than"),
            ("worse", "worse than"),
            ("same", "not to be told apart from"),
            ("unknown", "not comparable with"),
        )
        if verdict in verdicts
    ]
    return f"Beyond seed noise, of the others {', '.join(parts)}."


def _about(found: Comparison) -> list[tuple[str, str]]:
    counts = ", ".join(f"{number} {status}" for status, number in found.counts.items())
    pairs = [
        ("metric", f"{found.metric}, {'higher' if found.mode == 'max' else 'lower'} is better"),
        ("trials", f"{len(found.trials)}: {counts}"),
        ("settings", str(len(found.ranked) + len(found.unranked))),
        ("time of all trials", duration(found.cost.seconds)),
    ]
    if found.noise:
        pairs.append(("seed noise", f"standard deviation {figure(found.noise.deviation)} over the seeds of a setting"))
    return pairs


def _table(found: Comparison) -> dict[str, Any]:
    """Return the values for the table of settings: its rows, heads, and formats."""
    from markupsafe import Markup

    shorts = short_keys(found.keys)
    scale = scale_of(found) if found.ranked else None
    rows: list[tuple[int | str, Setting]] = [*enumerate(found.ranked, 1), *(("", each) for each in found.unranked)]
    return {
        "rows": rows,
        "most_rows": MOST_ROWS,
        "shorts": dict(zip(found.keys, shorts, strict=True)),
        "short_heads": [Markup(".<wbr>").join(printable(short).split(".")) for short in shorts],
        "interval_head": f"{share(100 * LEVEL, 0)} interval",
        "names": lambda setting: ", ".join(trial.name for trial in setting.trials),
        "kind": lambda setting: kind_of(found, setting),
        "at": lambda value: STRIP * min(max(scale.at(value), 0.0), 1.0) if scale else 0.0,
        "cell": labels.cell,
        "figure": figure,
        "bounds": labels.bounds,
        "duration": duration,
    }


def _legend(found: Comparison) -> list[tuple[str, str]]:
    kinds = [("best", "best")] + [("", "setting")] * (len(found.ranked) > 1)
    return kinds + [("cut", "stopped early")] * any(setting.cut for setting in found.ranked)


def _cost(found: Comparison) -> list[tuple[str, str]]:
    cost = found.cost
    pairs = [("time of all trials, summed", duration(cost.seconds))]
    if cost.train_s is not None and cost.idle is not None:
        pairs.append(("of it training", duration(cost.train_s)))
        pairs.append(("not training", f"{100 * cost.idle:.0f} % of the time of the trials that recorded it"))
    if cost.overhead is not None:
        says = f"{100 * cost.overhead:.0f} % (wall time \u00d7 slots / training \u2212 1)"
        pairs.append(("overhead of the sweep", says))
    return pairs

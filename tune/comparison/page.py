"""The comparison as one page of HTML: what it says, section by section. The pictures are made in ``pictures``."""

from __future__ import annotations

from importlib.resources import files

from gare.common.page import PageSection, document
from gare.common.page.parts import caution, count, facts, table, text
from tune.comparison.axis import Axis
from tune.comparison.charts import reach, share_bar, strip
from tune.comparison.importance import PER_KEY
from tune.comparison.names import bounds, cell, duration, figure, plain_metric, short_keys
from tune.comparison.pictures import cost_chart, curve_charts, kind_of, legend, parallel, sensitivity
from tune.comparison.result import Comparison
from tune.comparison.settings import Setting, described
from tune.comparison.statistics import LEVEL

MOST_ROWS = 20
SMALLEST = 0.001
TAGS = {
    "better": '<span class="tag better">better</span>',
    "worse": '<span class="tag worse">worse</span>',
    "same": '<span class="tag">not told apart</span>',
}


def render(found: Comparison) -> str:
    """Make the whole page."""
    parts = (
        ("ranking", "Ranking", _ranking),
        ("noise", "Beyond seed noise", _noise),
        ("sensitivity", "The metric by each key", _sensitivity),
        ("parallel", "All keys at once", _parallel),
        ("importance", "Which keys matter", _importance),
        ("curves", "Learning curves", _curves),
        ("cost", "Cost", _cost),
    )
    sections = [PageSection(name, title, body) for name, title, make in parts if (body := make(found))]
    style = (files("tune.comparison") / "style.css").read_text(encoding="utf-8")
    header = f'<p class="headline">{_headline(found)}</p>' + "".join(caution(each) for each in found.cautions())
    return document(f"Sweep {found.name}", header + _facts(found), sections, style=style)


def _headline(found: Comparison) -> str:
    if not found.ranked:
        return "No trial has a result to compare yet."
    best = found.ranked[0]
    seeds = count(len(best.scores), "seed") if len(best.scores) > 1 else "one seed"
    sure = f" ({bounds(best.interval)}, {seeds})" if best.interval else f" ({seeds})"
    values = described(best, found.keys)
    about = f" ({text(values)})" if values not in {"", best.label} else ""
    of = f"Best of {count(len(found.ranked), 'setting')}" if len(found.ranked) > 1 else "The only setting with a result"
    says = f"{of}: <strong>{text(best.label)}</strong>{about}, {text(plain_metric(found.metric))} "
    return f"{says}<strong>{figure(best.estimate.mean if best.estimate else None)}</strong>{sure}. {_verdicts(found)}"


def _verdicts(found: Comparison) -> str:
    if not found.against:
        return ""
    verdicts = [each.verdict for each in found.against]
    if set(verdicts) == {"unknown"}:
        return "Whether it differs from the others is open." if found.reference is None else ""
    name = f"the baseline {text(found.reference)}" if found.reference is not None else "it"
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


def _facts(found: Comparison) -> str:
    counts = ", ".join(f"{number} {status}" for status, number in found.counts.items())
    pairs = [
        ("metric", f"{found.metric}, {'higher' if found.mode == 'max' else 'lower'} is better"),
        ("trials", f"{len(found.trials)}: {counts}"),
        ("settings", str(len(found.ranked) + len(found.unranked))),
        ("time of all trials", duration(found.cost.seconds)),
    ]
    if found.noise:
        pairs.append(("seed noise", f"standard deviation {figure(found.noise.deviation)} over the seeds of a setting"))
    return facts(pairs)


def _ranking(found: Comparison) -> str:
    shorts = [text(short).replace(".", ".<wbr>") for short in short_keys(found.keys)]
    head = ["rank", "setting", text(found.metric), "95&nbsp;% interval", "", "seeds", "status", *shorts]
    head += ["epochs", "time"]
    numbered: list[tuple[int | str, Setting]] = [*enumerate(found.ranked, 1)]
    numbered += [("", setting) for setting in found.unranked]
    means = [setting.estimate.mean for setting in found.ranked if setting.estimate]
    scale = reach(means, [setting.interval for setting in found.ranked]) if means else None
    rows = [_ranking_row(found, scale, number, setting) for number, setting in numbered]
    grid = table(f"Settings by {text(plain_metric(found.metric))}", head, rows[:MOST_ROWS], kind="ranking")
    if rows[MOST_ROWS:]:
        rest = table("The other settings", head, rows[MOST_ROWS:], kind="ranking")
        grid += f"<details><summary>{count(len(rows) - MOST_ROWS, 'further setting')}</summary>{rest}</details>"
    errors = "".join(f"<li>{text(t.name)}: {text(t.error or 'no reason recorded')}</li>" for t in found.failed)
    failures = f"<h3>What failed</h3><ul>{errors}</ul>" if errors else ""
    return (
        f'{grid}<p class="faint">The mean over seeds and its {100 * LEVEL:g}&nbsp;% interval (Student\u2019s t over '
        "seeds): how far other seeds would move it, not other data. With one seed there is none. Checkpoints and "
        "settings are both chosen on dev, so the best figure is a little too good: report the test split of gare "
        f"evaluate.</p>{failures}"
    )


def _ranking_row(found: Comparison, scale: Axis | None, number: int | str, setting: Setting) -> list[str]:
    names = ", ".join(trial.name for trial in setting.trials)
    label = f"{text(setting.label)}<small>{text(names)}</small>" if names != setting.label else text(setting.label)
    drawn = ""
    if setting.estimate and scale:
        drawn = strip(setting.estimate.mean, setting.interval, scale, kind_of(found, setting))
    values = [text(cell(setting.values[key])) for key in found.keys]
    interval = bounds(setting.interval) or ("one seed" if len(setting.scores) == 1 else "-")
    row = [str(number), label, _mean(setting), interval, drawn, str(len(setting.scores) or "-"), text(setting.status)]
    return [*row, *values, setting.epochs, duration(setting.seconds)]


def _mean(setting: Setting) -> str:
    if not setting.estimate:
        return "-"
    unbiased, shown = setting.confirmed_mean, figure(setting.estimate.mean)
    return shown if unbiased is None else f"{shown}<small>{figure(unbiased)} without the first</small>"


def _noise(found: Comparison) -> str:
    if not found.against:
        return ""
    named = f"the baseline <strong>{text(found.reference)}</strong>" if found.reference is not None else "the best one"
    ordered = sorted(
        (each for each in found.against if each.verdict != "unknown"), key=lambda each: list(TAGS).index(each.verdict)
    )
    open_ones = [each for each in found.against if each.verdict == "unknown"]
    listed = "".join(f"<li>{text(each.says)}</li>" for each in open_ones)
    left = f"<details><summary>{count(len(open_ones), 'comparison')} left open</summary><ul>{listed}</ul></details>"
    left = left if open_ones else ""
    if not ordered:
        return f"<p>Nothing can be said against {named}: that takes three seeds of each setting.</p>{left}"
    rows = [
        [
            text(each.setting.label),
            TAGS[each.verdict],
            "&lt;0.001" if (each.adjusted or 0.0) < SMALLEST else f"{each.adjusted:.3f}",
            text(each.says),
        ]
        for each in ordered
    ]
    return (
        f"<p>Each setting against {named}, seed by seed where they share seeds (paired t). {_judged(found)} What "
        "cannot be told apart may still differ: more seeds would show.</p>"
        f"{table('Settings compared', ['setting', '', 'p (corrected)', 'in words'], rows, kind='words')}{left}"
    )


def _judged(found: Comparison) -> str:
    """Say when a difference counts."""
    if found.reference is not None:
        return (
            "A difference counts when its p value, corrected by Holm for the number of comparisons, is below 0.05; the "
            "intervals are of each comparison alone."
        )
    return (
        "The best one is the best by luck too, so each difference is judged as the largest among all settings, by the "
        "studentised range (Tukey), with the spread of all settings and with that of the two alone: both must make p "
        "smaller than 0.05. Where all settings are alike, no more than one sweep in twenty then has a difference that "
        "counts. The intervals hold for all comparisons together. Against a baseline that you name before you look "
        "(--baseline), there is less to correct for."
    )


def _sensitivity(found: Comparison) -> str:
    panels = sensitivity(found)
    if not panels:
        return ""
    several = panels.count("<figure") > 1
    others = " Other keys vary too, so a slope is not yet a cause." if several else ""
    return (
        f"<p>Every dot is a setting, at its mean {text(plain_metric(found.metric))} over seeds, with its interval; a "
        f"short level line is the mean of all settings with that value.{others}</p>{legend(found)}"
        f'<div class="panels">{panels}</div>'
    )


def _parallel(found: Comparison) -> str:
    drawn = parallel(found)
    if not drawn:
        return ""
    return (
        "<p>A line per setting, through its value on every axis to its metric on the last. Green is the best, blue the "
        f"best quarter, dashed those stopped early. Point at a line to see which it is.</p>{drawn}"
    )


def _importance(found: Comparison) -> str:
    weighed = found.importance
    if weighed is None:
        return ""
    warning = caution(weighed.warning) if weighed.warning else ""
    if weighed.explained is None:
        return warning
    most = max(row.share or 0.0 for row in weighed.keys)
    shorts = dict(zip(found.keys, short_keys(found.keys), strict=True))
    rows = [
        [
            text(shorts.get(row.key, row.key)),
            f"{100 * (row.share or 0.0):.0f}&nbsp;%",
            share_bar(row.share or 0.0, most),
            "-" if row.correlation is None else f"{row.correlation:+.2f}",
        ]
        for row in weighed.keys
    ]
    head = ["key", "share", "", "rank correlation"]
    explained = f" The forest explains {100 * max(0.0, weighed.explained):.0f}&nbsp;% of it."
    return (
        f'{warning}<div class="{"untold" if weighed.warning else ""}">{table("Keys", head, rows)}</div>'
        '<p class="faint">The share of the variance between settings that a key has a part in, alone or together with '
        "others: how much worse a random forest predicts settings it has not seen (five folds) with the key shuffled."
        f"{explained} Settings stopped early take no part. At least {PER_KEY} settings per key are needed, so "
        f"{weighed.needed} here; there are {weighed.settings}. The rank correlation (Spearman) says which way: above 0 "
        "the metric grows with the key.</p>"
    )


def _curves(found: Comparison) -> str:
    drawn = curve_charts(found)
    if not drawn:
        return ""
    return (
        "<p>A line per trial; green the trials of the best setting, a cross where one was stopped early, dashed. Point "
        f'at a line to see which it is.</p><div class="panels">{drawn}</div>'
    )


def _cost(found: Comparison) -> str:
    cost = found.cost
    if not cost.seconds:
        return ""
    pairs = [("time of all trials, summed", duration(cost.seconds))]
    if cost.train_s is not None and cost.idle is not None:
        pairs.append(("of it training", duration(cost.train_s)))
        pairs.append(("not training", f"{100 * cost.idle:.0f} % of the time of the trials that recorded it"))
    if cost.overhead is not None:
        pairs.append(
            ("overhead of the sweep", f"{100 * cost.overhead:.0f} % (wall time \u00d7 slots / training \u2212 1)")
        )
    return facts(pairs) + f'<div class="panels">{cost_chart(found)}</div>'

"""The report page as one string of HTML, pictures inside."""

from __future__ import annotations

import math
from importlib.resources import files

from gare.common.page import PageSection, document
from gare.common.page.parts import caution, count, facts, share, span, table, text
from gare.retrieval.evaluation.report.content import HUB_WINS, HardQuery, Hub, Report, Result, Row
from gare.retrieval.evaluation.report.groups import Check, Group
from gare.retrieval.evaluation.report.parts import bar, caption, chart, picture, side
from gare.retrieval.evaluation.report.pictures import Strip

DIRECTIONS = {"t2v": "Text to video", "v2t": "Video to text", "v2t_grouped": "Video to text, grouped by video"}
TAGS = {"dsl": "dual softmax", "qbnorm": "QB-Norm"}
TIES = {
    "pessimistic": "Ties count against the query.",
    "optimistic": "Ties count for the query.",
    "mean": "Ties count half.",
}
SECTIONS = (
    ("metrics", "Metrics"),
    ("ranks", "Where the right answer stands"),
    ("checks", "What the data cost"),
    ("attributes", "Accuracy by attribute"),
    ("hardest", "Hardest queries"),
    ("hubs", "Videos that come first too often"),
)


def render(report: Report) -> str:
    """The whole page."""
    bodies = (_metrics, _ranks, _checks, _attributes, _hardest, _hubs)
    sections = [PageSection(name, says, body(report)) for (name, says), body in zip(SECTIONS, bodies, strict=True)]
    style = (files("gare.retrieval.evaluation.report") / "style.css").read_text(encoding="utf-8")
    subject = report.subject
    return document(f"{subject.title} on {subject.split}", _headline(report) + _facts(report), sections, style=style)


def _headline(report: Report) -> str:
    row = report.rows[0]
    bounds = row.intervals.get("R@1")
    sure = f" ({100 * report.level:g}&nbsp;% interval {bounds[0]:.1f} to {bounds[1]:.1f})" if bounds else ""
    says = (
        f"A caption finds its own video first in <strong>{share(row.metrics['R@1'])}</strong> of cases{sure}: "
        f"{count(row.queries, 'caption')}, ranked against {count(row.gallery, 'video')}."
    )
    cautions = "".join(caution(each) for each in report.subject.cautions)
    return f'<p class="headline">{says}</p>{cautions}'


def _facts(report: Report) -> str:
    return facts([("checkpoint chosen", report.subject.selected), *report.subject.facts])


def _metrics(report: Report) -> str:
    measures = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")

    def cell(row: Row, name: str) -> str:
        return f"{row.metrics[name]:.1f}<small>{span(row.intervals.get(name))}</small>"

    def label(row: Row) -> str:
        direction = DIRECTIONS[row.name.removesuffix(f"_{row.tag}")]
        tag = f' <span class="tag">{TAGS[row.tag]}</span>' if row.tag else ""
        return f"{direction}{tag} <code>{row.name}</code>"

    rows = [[label(r), *(cell(r, m) for m in measures), f"{r.queries:,}", f"{r.gallery:,}"] for r in report.rows]
    grid = table("Retrieval in both directions", ["", *measures, "queries", "gallery"], rows, kind="metrics")
    sure = (
        f" Below each value its {100 * report.level:g}&nbsp;% interval: percentile bootstrap over whole videos, "
        f"{report.resamples:,} resamples."
        if report.resamples
        else ""
    )
    if any(low == high for row in report.rows for low, high in row.intervals.values()):
        sure += " One without width means that all queries agree, not that more would."
    return (
        f'{grid}<p class="faint">R@k: share of queries in percent whose right answer is among the first k. MdR, MnR: '
        f"median and mean rank. {TIES[report.ties]}{sure} A row with a tag is post-processed: dual softmax looks at "
        "all queries of the split together, which a search for one sentence cannot; QB-Norm looks at captions and "
        "videos of the train split.</p>"
    )


def _ranks(report: Report) -> str:
    charts = "".join(
        chart(f"{DIRECTIONS[name]}: queries by rank of the right answer", buckets)
        for name, buckets in report.histograms.items()
    )
    return f'<div class="charts">{charts}</div>'


def _checks(report: Report) -> str:
    parts = []
    if report.ceiling < 100:
        parts.append(
            f"<p>Some captions describe several videos in the same words, so text-to-video R@1 cannot exceed "
            f"{share(report.ceiling)} here.</p>"
        )
    if report.uncaptioned:
        has = "has no caption and is" if report.uncaptioned == 1 else "have no caption and are"
        parts.append(f"<p>{count(report.uncaptioned, 'video')} of the gallery {has} only ever a wrong answer.</p>")
    if not report.checks:
        parts.append("<p>No caption is cut off or shared with another video, and no clip is short of frames.</p>")
        return "".join(parts)
    head = ["captions concerned", "how many", "R@1 there", "R@1 of the others", "what to do"]
    rows = [_check(found) for found in report.checks]
    return "".join(parts) + table("Text-to-video R@1 where the data make it hard", head, rows, kind="checks")


def _check(found: Check) -> list[str]:
    def recall(group: Group | None) -> str:
        return "none" if group is None else f"{share(group.recall)}<small>{span(group.interval)}</small>"

    return [text(found.says), f"{found.affected.queries:,}", recall(found.affected), recall(found.others), found.advice]


def _attributes(report: Report) -> str:
    if not report.attributes:
        return "<p>The manifest has no attribute with 2 to 30 values. gare manifest takes some with --attributes.</p>"
    overall = report.rows[0].metrics["R@1"]
    most = 10.0 * math.ceil(max(group.interval[1] for groups in report.attributes.values() for group in groups) / 10)
    head = ["value", "captions", "videos", "R@1", "interval", f"0 to {most:g}&nbsp;%"]
    tables = "".join(
        table(text(name), head, [_group(group, overall, most) for group in groups], kind="groups")
        for name, groups in report.attributes.items()
    )
    return (
        f"<p>Text-to-video R@1 of the captions whose video has the value, the worst first. The line in the bars is "
        f"the whole split, {share(overall)}. Marked are values whose 95&nbsp;% interval (Wilson's, each video counted "
        f"once) does not reach it.</p>"
        f'<div class="pair">{tables}</div>'
    )


def _group(found: Group, overall: float, most: float) -> list[str]:
    certainly = side(found, overall)
    mark = f' <span class="tag {certainly}">{certainly}</span>' if certainly else ""
    return [
        f"{text(found.name)}{mark}",
        f"{found.queries:,}",
        f"{found.videos:,}",
        f"{found.recall:.1f}",
        span(found.interval),
        bar(found, overall, most),
    ]


def _hardest(report: Report) -> str:
    if not report.hard:
        return "<p>Every caption found its video first, or no queries were to be shown.</p>"
    about = (
        "<p>The captions whose own video ranks worst, one caption of each video: look whether the caption fits its "
        "video, and what the videos that were preferred have in common with it. Scores are raw.</p>"
    )
    return about + "".join(_hard(query) for query in report.hard)


def _hard(query: HardQuery) -> str:
    own = query.own
    cards = [_card("own", f'{_named(own)} <span class="tag better">own video, rank {own.rank:g}</span>', own.strip)]
    cards += [_card("other", f"{other.rank:g}. {_named(other)}", other.strip) for other in query.others]
    return f'<article><h3>{caption(query.caption)}</h3><div class="cards">{"".join(cards)}</div></article>'


def _named(result: Result) -> str:
    return f"<b>{text(result.strip.video_id)}</b> {result.score:.3f}"


def _card(kind: str, says: str, strip: Strip) -> str:
    return f'<figure class="{kind}">{picture(strip)}<figcaption>{says}</figcaption></figure>'


def _hubs(report: Report) -> str:
    hubs = report.hubs
    if not hubs.worst:
        return f"<p>No video is first for {HUB_WINS} captions of other videos or more.</p>"
    about = (
        f"<p>{count(hubs.wrong, 'caption')} {'has' if hubs.wrong == 1 else 'have'} a wrong video first. Half of these "
        f"first places go to {count(hubs.half, 'video')} of {report.rows[0].gallery:,}. A few videos that are near to "
        "everything are what dual softmax and QB-Norm push back.</p>"
    )
    return about + f'<div class="cards">{"".join(_hub(hub) for hub in hubs.worst)}</div>'


def _hub(hub: Hub) -> str:
    says = (
        f"<b>{text(hub.strip.video_id)}</b> first for {count(hub.wrong, 'caption')} of other videos and {hub.right:,} "
        f"of its own; after dual softmax for {hub.corrected:,} of others"
    )
    return _card("other", says, hub.strip)

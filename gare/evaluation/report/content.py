"""Gather the content of the report page from a measurement as plain values; ``page.py`` lays it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gare.data.shards import Split
from gare.evaluation.answers import Answers
from gare.evaluation.measure import LEVEL, Interval, Measurement
from gare.evaluation.metrics.ranking import Ranking
from gare.evaluation.report.groups import (
    Check,
    Group,
    by_attribute,
    check,
    shared_captions,
    short_clips,
    uncaptioned,
)
from gare.evaluation.report.pictures import Strip, Strips

BUCKETS = ((1, "1"), (5, "2\u20135"), (10, "6\u201310"), (50, "11\u201350"), (None, "51+"))
OTHERS = 5
HUBS = 6
HUB_WINS = 2


@dataclass(frozen=True)
class Subject:
    """The model and data that were evaluated.

    ``title``: the model's name; ``selected``: how its checkpoint was chosen, in a sentence; ``cautions``: sentences
    to read before the figures; ``facts``: (name, value); ``frames`` and ``words``: per video and text; ``cut`` [N]:
    True for captions that were longer.
    """

    title: str
    split: str
    selected: str
    cautions: list[str]
    facts: list[tuple[str, str]]
    frames: int
    words: int
    cut: Sequence[bool]


@dataclass(frozen=True)
class Row:
    """A row of the table of metrics; ``tag``: the post-processing, empty for raw scores."""

    name: str
    tag: str
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    queries: int
    gallery: int

    @property
    def direction(self) -> str:
        """The name without the tag."""
        return self.name.removesuffix(f"_{self.tag}")


@dataclass(frozen=True)
class Result:
    """A video with its rank and score for a query."""

    rank: float
    score: float
    strip: Strip


@dataclass(frozen=True)
class HardQuery:
    """A caption, its own video, and the first of the others."""

    caption: str
    own: Result
    others: list[Result]


@dataclass(frozen=True)
class Hub:
    """A video that ranks first for ``wrong`` captions of other videos, and for ``right`` of its own.

    ``corrected``: number of other videos' captions it ranks first for after dual softmax.
    """

    strip: Strip
    wrong: int
    right: int
    corrected: int


@dataclass(frozen=True)
class Hubs:
    """The worst hubs; over all videos, the number of wrong first places, and how many videos take half of them."""

    worst: list[Hub]
    wrong: int
    half: int


@dataclass(frozen=True)
class Report:
    """The content of the whole page."""

    subject: Subject
    level: float
    resamples: int
    ties: str
    rows: list[Row]
    histograms: dict[str, list[tuple[str, int]]]
    ceiling: float
    uncaptioned: int
    checks: list[Check]
    attributes: dict[str, list[Group]]
    hard: list[HardQuery]
    hubs: Hubs


def gather(subject: Subject, measured: Measurement, split: Split, *, hardest: int) -> Report:
    """Gather the page's content from a measurement of ``split``."""
    raw = measured.answers["t2v"]
    strips = Strips(split)
    shared, ceiling = shared_captions(measured.evaluation.texts, measured.evaluation.owner)
    return Report(
        subject,
        LEVEL,
        measured.resamples,
        measured.ties,
        [_row(name, found, measured.intervals) for name, found in measured.answers.items()],
        {name: histogram(measured.answers[name]) for name in ("t2v", "v2t")},
        ceiling,
        uncaptioned(split.videos),
        _checks(subject, raw.ranking, split, shared),
        by_attribute(split, raw.ranking),
        [_hard(measured, query, strips) for query in hardest_queries(raw, hardest)],
        _hubs(raw, measured.answers["t2v_dsl"], strips),
    )


def _checks(subject: Subject, ranking: Ranking, split: Split, shared: NDArray[np.bool_]) -> list[Check]:
    """Find captions and clips that make retrieval hard."""
    short = short_clips(split, subject.frames)[ranking.video]
    found = [
        check(
            "captions that describe another video too, word for word",
            "Write captions that tell the videos apart, or read R@5 and R@10.",
            ranking,
            shared,
        ),
        check(
            f"captions of videos with fewer than {subject.frames} frames",
            "Look at these clips: they are short, or their files are cut.",
            ranking,
            short,
        ),
        check(
            f"captions longer than {subject.words} tokens, whose end is cut off",
            "Raise data.words, as far as CLIP allows.",
            ranking,
            np.asarray(subject.cut, bool),
        ),
    ]
    return [each for each in found if each is not None]


def histogram(answers: Answers) -> list[tuple[str, int]]:
    """Count the queries with a rank in each bucket."""
    ranks = answers.ranking.ranks
    edges = [np.inf if last is None else last for last, _ in BUCKETS]
    counts = np.diff([0, *((ranks <= edge).sum() for edge in edges)])
    return [(label, int(count)) for (_, label), count in zip(BUCKETS, counts, strict=True)]


def hardest_queries(answers: Answers, count: int) -> list[int]:
    """Return the worst-ranked queries, worst first, one per video, none ranked first; ties in query order."""
    ranks, videos = answers.ranking.ranks, answers.ranking.video
    chosen: dict[int, int] = {}
    for query in np.argsort(-ranks, kind="stable").tolist():
        if len(chosen) == count or ranks[query] <= 1:
            break
        chosen.setdefault(int(videos[query]), query)
    return list(chosen.values())


def _row(name: str, answers: Answers, intervals: dict[str, Interval]) -> Row:
    values = {key.partition("/")[2]: value for key, value in answers.ranking.metrics().items()}
    bounds = {key.partition("/")[2]: value for key, value in intervals.items() if key.startswith(f"{name}/")}
    tag = name.rpartition("_")[2] if name.endswith(("_dsl", "_qbnorm")) else ""
    return Row(name, tag, values, bounds, len(answers.ranking.ranks), answers.ranking.gallery)


def _hard(measured: Measurement, query: int, strips: Strips) -> HardQuery:
    found, evaluation = measured.answers["t2v"], measured.evaluation
    own = int(evaluation.owner[query])
    score = float(evaluation.scores(slice(query, query + 1), slice(own, own + 1))[0, 0])
    answers = zip(found.items[query].tolist(), found.scores[query].tolist(), strict=True)
    others = [(place, video, score) for place, (video, score) in enumerate(answers, start=1) if video != own]
    return HardQuery(
        evaluation.texts[query],
        Result(float(found.ranking.ranks[query]), score, strips.of(own)),
        [Result(place, score, strips.of(video)) for place, video, score in others[:OTHERS]],
    )


def _hubs(raw: Answers, corrected: Answers, strips: Strips) -> Hubs:
    """Find the videos that rank first for the most captions of other videos."""
    video, gallery = raw.ranking.video, raw.ranking.gallery
    wins = raw.items[:, 0] == video
    wrong = np.bincount(raw.items[~wins, 0], minlength=gallery)
    right = np.bincount(video[wins], minlength=gallery)
    after = np.bincount(corrected.items[corrected.items[:, 0] != video, 0], minlength=gallery)
    order = np.argsort(-wrong, kind="stable")
    total = int(wrong.sum())
    half = int(np.searchsorted(wrong[order].cumsum(), total / 2)) + 1 if total else 0
    worst = [
        Hub(strips.of(v), int(wrong[v]), int(right[v]), int(after[v]))
        for v in order[:HUBS].tolist()
        if wrong[v] >= HUB_WINS
    ]
    return Hubs(worst, total, half)

"""Compare two evaluations of the same queries, ranking by ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gare.common.errors import InputError
from gare.evaluation.metrics.bootstrap import RESAMPLES, Difference, compare
from gare.evaluation.metrics.query_table import Queries, QueryTable

SHOWN = 60
"""Most characters of a caption in a message."""


@dataclass(frozen=True)
class PairedRanking:
    """One ranking of runs A and B: its differences, and how many queries B ranks better, worse and equally."""

    name: str
    gallery: int
    better: int
    worse: int
    equal: int
    differences: list[Difference]

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.better + self.worse + self.equal

    def verdict(self, level: float) -> str:
        """Return a sentence on what the interval of R@1 shows."""
        first = next(d for d in self.differences if d.metric == f"{self.name}/R@1")
        interval = f"the {100 * level:g} % interval of B - A is {first.low:+.2f} to {first.high:+.2f} points"
        if first.low <= 0 <= first.high:
            return f"{first.metric}: no difference shown; {interval}, which contains 0."
        better = "B" if first.low > 0 else "A"
        return f"{first.metric}: {better} is better by {abs(first.difference):.2f} points; {interval}."


def compare_tables(
    a: QueryTable, b: QueryTable, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[PairedRanking]:
    """Compare every ranking that both have. Raises InputError unless both ranked the same queries by the same rules."""
    if a.ties != b.ties:
        raise _incomparable(f"ties are {a.ties} in A and {b.ties} in B")
    common = [name for name in a.queries if name in b.queries]
    if not common:
        raise _incomparable(f"A has the rankings {', '.join(a.queries)} and B has {', '.join(b.queries)}")
    for name in common:
        _check_same(name, a.queries[name], b.queries[name])
    found = []
    for name in common:
        one, other = a.queries[name].ranking, b.queries[name].ranking
        better, worse = int(np.sum(other.ranks < one.ranks)), int(np.sum(other.ranks > one.ranks))
        differences = compare(one, other, level=level, resamples=resamples, seed=seed)
        equal = len(one.ranks) - better - worse
        found.append(PairedRanking(name, one.gallery, better, worse, equal, differences))
    return found


def _check_same(name: str, a: Queries, b: Queries) -> None:
    """Raise InputError for different queries or galleries, naming the first difference."""
    sizes = [(len(queries.video_ids), queries.ranking.gallery) for queries in (a, b)]
    if sizes[0] != sizes[1]:
        (queries_a, gallery_a), (queries_b, gallery_b) = sizes
        raise _incomparable(
            f"{name} ranks {queries_a} queries in a gallery of {gallery_a} in A, "
            f"and {queries_b} in a gallery of {gallery_b} in B"
        )
    for what, in_a, in_b in (("video", a.video_ids, b.video_ids), ("caption", a.captions, b.captions)):
        if in_a == in_b:
            continue
        if in_a is None or in_b is None:
            raise _incomparable(f"the queries of {name} are captions in one and videos in the other")
        at = next(i for i, (x, y) in enumerate(zip(in_a, in_b, strict=True)) if x != y)
        raise _incomparable(
            f"the {what} of query {at} of {name} is {_short(in_a[at])} in A and {_short(in_b[at])} in B"
        )


def _incomparable(reason: str) -> InputError:
    return InputError(f"A and B cannot be compared: {reason}. Evaluate both on the same split with the same options.")


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")

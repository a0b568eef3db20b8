"""How much of the exact answer the first stage of an index holds, and how many candidates a search therefore takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gare.common.records import STRICT
from gare.retrieval.codes import SCAN_BLOCK, Codes, Lists
from gare.scoring.factors import slices

TOP = 10
"""The recall is measured for this many best videos."""

TARGET = 0.99
"""Recall at which the index chooses its number of candidates."""

LEAST = 200
"""Fewest candidates that the index chooses: scoring these takes hardly any time compared with reading the query."""

CANDIDATES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
GROWTH = 0.6
"""The candidates for a given recall grow with this power of the number of videos, measured from 1,800 to 14,600."""

FALSE_FLAGS = 0.01
"""Share of the held-out texts that count as unknown by their leverage."""

WORD_FLAGS, NEVER = 0.01, 2.0
"""Most held-out texts that may count as unknown by their words; the limit for words where more would."""

LOSS = 0.001
"""Most recall that a search may lose because it reads only some of the lists."""

PART = 4
"""Reading more than one list in this many is no faster than reading all."""


@dataclass(frozen=True)
class Recall:
    """Share of the exact top 10 among the best K of the stage, for each K of ``candidates`` and kind of held-out text.

    A query counts as unknown above this ``leverage``, or from this share of unknown ``words`` on. ``probes``: the
    number of lists that a search for ``LEAST`` candidates reads, 0 for all; for more candidates it reads more. The
    shares are those of such a search.
    """

    __pydantic_config__ = STRICT

    videos: int
    candidates: list[int]
    captions: list[float]
    fragments: list[float]
    leverage: float
    probes: int = 0
    words: float = NEVER

    def __post_init__(self) -> None:
        if not len(self.candidates) == len(self.captions) == len(self.fragments):
            raise ValueError("its recall curve has a value missing")

    def is_unknown(self, leverage: float, words: float) -> bool:
        """Return True for a query that is unlike the texts of the stage."""
        return leverage > self.leverage or words >= self.words

    def at(self, count: int) -> float:
        """Return the recall of the worse kind at this many candidates, or the nearest smaller number measured."""
        known = [
            min(c, f) for k, c, f in zip(self.candidates, self.captions, self.fragments, strict=True) if k <= count
        ]
        return max(known, default=0.0)

    def choose(self, top: int, videos: int) -> int:
        """Return the fewest candidates for 99 % of the exact top 10, with proportionally more for a longer list.

        An index that has grown since its recall was measured takes more, by the measured power of growth.
        """
        grown = math.pow(max(1.0, videos / max(1, self.videos)), GROWTH)
        return max(LEAST, math.ceil(self._enough * grown * max(1, -(-top // TOP))))

    def lists(self, count: int, there: int) -> int | None:
        """Return how many of the lists that are there a search for this many candidates reads; None for all."""
        return _lists(self.probes, count, there)

    @property
    def _enough(self) -> int:
        return next((k for k in self.candidates if self.at(k) >= TARGET), self.videos)


def _lists(probes: int, count: int, there: int) -> int | None:
    """Return how many lists a search reads for ``count`` candidates, if it reads ``probes`` for the least number."""
    wanted = math.ceil(probes * max(1.0, count / LEAST))
    return wanted if 0 < wanted * PART <= there else None


@dataclass(frozen=True)
class Best:
    """The exact best videos of some texts: ``scores`` and the stage's ``approximate`` ones, ``numbers``: all [n, T]."""

    scores: Tensor
    approximate: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, scores_NV: Tensor, approximate_NV: Tensor, first: int) -> Best:
        """Choose the best of videos whose numbers start at ``first``."""
        best = scores_NV.topk(min(TOP, scores_NV.shape[1]), dim=1)
        return cls(best.values, approximate_NV.gather(1, best.indices), best.indices + first)

    def merge(self, other: Best) -> Best:
        """Choose the best of both."""
        scores = torch.cat([self.scores, other.scores], dim=1)
        best = scores.topk(min(TOP, scores.shape[1]), dim=1)
        approximate = torch.cat([self.approximate, other.approximate], dim=1).gather(1, best.indices)
        numbers = torch.cat([self.numbers, other.numbers], dim=1).gather(1, best.indices)
        return Best(best.values, approximate, numbers)


@dataclass(frozen=True)
class Asked:
    """Held-out texts as the stage sees them: ``queries`` [n, r], ``leverage`` [n], share of unknown ``words`` [n].

    ``captions``: how many are captions; the others, which come last, are fragments.
    """

    queries: Tensor
    leverage: Tensor
    words: Tensor
    captions: int

    def recall(self, best: Best, codes: Iterable[Codes], lists: Lists | None, best_codes: Codes | None) -> Recall:
        """Count how many of the exact top 10 are among the best K of the stage.

        ``best``: of these texts; ``codes``: those of all videos; ``best_codes``: of the videos of ``best`` [n T], if
        there are ``lists``. The best K of the lists that a search reads hold at least what is counted here: those among
        the best K of all that are in these lists.
        """
        ahead, videos = self._ahead(best, codes)
        tried = [k for k in CANDIDATES if k < videos] + [videos]
        shares = [self._shares(ahead < k) for k in tried]
        probes = 0
        if lists is not None and best_codes is not None:
            own = lists.assign(best_codes).view_as(best.numbers)
            rank = _rank(self.queries @ lists.means.T, own)
            probes, shares = self._probes(ahead, rank, dict(zip(tried, shares, strict=True)), len(lists))
        return Recall(
            videos=videos,
            candidates=tried,
            captions=[round(share[0], 5) for share in shares],
            fragments=[round(share[1], 5) for share in shares],
            leverage=float(torch.quantile(self.leverage, 1 - FALSE_FLAGS)),
            probes=probes,
            words=self._word_limit(),
        )

    def _word_limit(self) -> float:
        """Return the lowest share of unknown words, from a half on, that hardly any of these texts has."""
        shares = (0.5, 0.75, 1.0)
        return next((x for x in shares if float((self.words >= x).double().mean()) <= WORD_FLAGS), NEVER)

    def _probes(
        self, ahead: Tensor, rank: Tensor, shares: dict[int, tuple[float, float]], there: int
    ) -> tuple[int, list[tuple[float, float]]]:
        """Return the fewest lists that hold nearly as much as all, and the shares with so many; 0 if all are read."""
        enough = max(LEAST, next((k for k, share in shares.items() if min(share) >= TARGET), max(shares)))
        whole = self._shares(ahead < enough)
        for probes in range(1, there // PART + 1):
            reads = {k: _lists(probes, k, there) or there for k in (enough, *shares)}
            some = self._shares((ahead < enough) & (rank < reads[enough]))
            if all(a >= b - LOSS for a, b in zip(some, whole, strict=True)):
                return probes, [self._shares((ahead < k) & (rank < reads[k])) for k in shares]
        return 0, [*shares.values()]

    def _ahead(self, best: Best, codes: Iterable[Codes]) -> tuple[Tensor, int]:
        """Count the videos that the stage puts before each of the best [n, T], and all videos."""
        ahead, videos = torch.zeros_like(best.numbers), 0
        for some in codes:
            for rows in slices(len(some), SCAN_BLOCK):
                scores = some[rows].scores(self.queries)
                for place, limit in enumerate(best.approximate.T):
                    ahead[:, place] += (scores > limit[:, None]).sum(1)
            videos += len(some)
        return ahead, videos

    def _shares(self, found: Tensor) -> tuple[float, float]:
        """Return the mean over captions and over fragments."""
        each = found.double().mean(1)
        return float(each[: self.captions].mean()), float(each[self.captions :].mean())


def _rank(scores_NL: Tensor, own_NT: Tensor) -> Tensor:
    """Return how many lists come before each video's own [n, T]."""
    limits = scores_NL.gather(1, own_NT)
    return torch.stack([(scores_NL > limit[:, None]).sum(1) for limit in limits.T], dim=1)

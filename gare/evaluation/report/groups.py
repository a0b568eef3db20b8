"""Text-to-video R@1 of parts of the queries: by the manifest's attributes, and by limits of the data."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gare.data.shards import Split, VideoInfo
from gare.evaluation.metrics.ranking import Ranking
from gare.schema import TAKEN_FROM

MOST_VALUES = 30
QUANTILE = 1.959964  # of the normal distribution, for 95 %
NOT_GIVEN = "(not given)"


@dataclass(frozen=True)
class Group:
    """R@1 in percent of ``queries`` captions of ``videos`` videos, with its 95 % interval."""

    name: str
    queries: int
    videos: int
    recall: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Check:
    """A property of some captions or videos that costs accuracy: R@1 with and without it."""

    says: str
    advice: str
    affected: Group
    others: Group | None


def by_attribute(split: Split, ranking: Ranking) -> dict[str, list[Group]]:
    """Group queries by each attribute with 2 to 30 values, worst group first; skip other attributes."""
    captioned = np.unique(ranking.video)
    found = {}
    names = {name: None for video in captioned for name in split.videos[video].attributes}
    for name in names:
        members = defaultdict(list)
        for video in captioned.tolist():
            members[split.videos[video].attributes.get(name, NOT_GIVEN)].append(video)
        if name != TAKEN_FROM and 2 <= len(members.keys() - {NOT_GIVEN}) <= MOST_VALUES:
            groups = [group(value, ranking, np.isin(ranking.video, videos)) for value, videos in members.items()]
            found[name] = sorted(groups, key=lambda g: (g.recall, g.name))
    return found


def group(name: str, ranking: Ranking, chosen: NDArray[np.bool_]) -> Group:
    """Return the group of the ``chosen`` [Q] queries, at least one."""
    videos = len(np.unique(ranking.video[chosen]))
    share = float((ranking.ranks[chosen] <= 1).mean())
    return Group(name, int(chosen.sum()), videos, 100 * share, wilson(share, videos))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval, in percent, of a share of ``count`` independent cases.

    For a small group with only hits or only misses, a bootstrap would claim certainty.
    """
    square = QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = QUANTILE / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def check(says: str, advice: str, ranking: Ranking, affected: NDArray[np.bool_]) -> Check | None:
    """Return the check of the ``affected`` [Q] queries, or None if there are none."""
    if not affected.any():
        return None
    others = None if affected.all() else group("others", ranking, ~affected)
    return Check(says, advice, group("affected", ranking, affected), others)


def shared_captions(texts: Sequence[str], owner: NDArray[np.int64]) -> tuple[NDArray[np.bool_], float]:
    """Find captions [N] that another video shares up to case and spaces, and the highest R@1 they allow, in percent.

    Only one of the videos with the same caption can be first for it: at best the one that has it most often.
    """
    plain = [" ".join(text.casefold().split()) for text in texts]
    having: dict[str, Counter[int]] = defaultdict(Counter)
    for text, video in zip(plain, owner.tolist(), strict=True):
        having[text][video] += 1
    shared = np.array([len(having[text]) > 1 for text in plain])
    most = sum(max(videos.values()) for videos in having.values())
    return shared, 100.0 * most / len(texts)


def short_clips(split: Split, frames: int) -> NDArray[np.bool_]:
    """Return which videos [V] have fewer stored frames than ``frames``."""
    return np.array([len(split.timestamps(number)) < frames for number in range(len(split))], bool)


def uncaptioned(videos: Sequence[VideoInfo]) -> int:
    """Count the videos of the gallery without a caption."""
    return sum(not video.captions for video in videos)

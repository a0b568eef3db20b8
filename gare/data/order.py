"""Which (video, caption) pairs make up each batch: a pure function of the seed and the epoch, not of the workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

Sample = tuple[int, int]
"""(index of the video in its split, index of the caption of that video)"""

Captions = Literal["one_per_video", "all"]
"""What an epoch visits (``data.captions``)."""


def steps_per_epoch(captions: Sequence[int], batch: int, mode: Captions, *, repeat_videos: bool = False) -> int:
    """Full batches in an epoch over videos with the given caption counts c, the same for every seed and epoch.

    Without ``repeat_videos`` n batches of different videos exist just when sum_v min(c_v, n) >= n x batch, which holds
    up to the largest such n.
    """
    counts = np.array([_visits(count, mode) for count in captions], np.int64)
    full = int(counts.sum()) // batch
    if repeat_videos:
        return full
    low, high = 0, full
    while low < high:
        n = (low + high + 1) // 2
        low, high = (n, high) if np.minimum(counts, n).sum() >= n * batch else (low, n - 1)
    return low


def left_out(captions: Sequence[int], batch: int, mode: Captions) -> int:
    """How many full batches an epoch lacks because they would hold two captions of one video."""
    repeating = steps_per_epoch(captions, batch, mode, repeat_videos=True)
    return repeating - steps_per_epoch(captions, batch, mode)


def epoch_batches(
    captions: Sequence[int], batch: int, mode: Captions, *, seed: int, epoch: int, repeat_videos: bool = False
) -> list[list[Sample]]:
    """The full global batches of one epoch, shuffled, ``steps_per_epoch`` of them; the rest is dropped.

    ``captions``: caption count of each video; videos without any are left out. With ``all``, rounds over the
    videos visit each caption once. A batch never holds two captions of one video, or with ``repeat_videos`` only
    when nothing else is left.
    """
    queue = _Queue(captions, mode, np.random.default_rng([seed, epoch]))
    steps = steps_per_epoch(captions, batch, mode, repeat_videos=repeat_videos)
    if repeat_videos:
        return [queue.take(batch) for _ in range(steps)]
    return [queue.take_distinct(batch, steps - step) for step in range(steps)]


def _visits(count: int, mode: Captions) -> int:
    return count if mode == "all" else min(count, 1)


class _Queue:
    """What an epoch visits: rounds over the videos, each in a random order, and each video's captions in one too."""

    def __init__(self, captions: Sequence[int], mode: Captions, random: np.random.Generator) -> None:
        captioned = [v for v, count in enumerate(captions) if count]
        self._captions = {v: iter(random.permutation(captions[v]).tolist()) for v in captioned}
        self._left = np.array([_visits(count, mode) for count in captions], np.int64)
        self._ahead_of_turn = np.zeros(len(captions), np.int64)
        self._turns: deque[int] = deque()
        for turn in range(int(self._left.max(initial=0))):
            self._turns.extend(v for v in random.permutation(captioned).tolist() if turn < captions[v])

    def take(self, batch: int) -> list[Sample]:
        """The first samples of different videos, and of the same ones where there are too few."""
        videos = self._first_videos(batch)
        videos += [self._turns.popleft() for _ in range(batch - len(videos))]
        return self._samples(videos)

    def take_distinct(self, batch: int, to_go: int) -> list[Sample]:
        """The first samples of different videos, such that the ``to_go - 1`` batches after this one can be full too.

        A video with at least ``to_go`` captions left loses one for good by staying out of this batch; ``spare`` such
        losses can be borne. Beyond that it takes the place of a video that has fewer.
        """
        spare = int(np.minimum(self._left, to_go).sum()) - to_go * batch
        urgent = self._left >= to_go
        videos = self._first_videos(batch)
        can_wait = [v for v in videos if not urgent[v]]
        urgent[videos] = False
        outside = np.flatnonzero(urgent)
        swaps = min(len(outside) - spare, len(can_wait))
        if swaps > 0:
            most_left = outside[np.argsort(-self._left[outside], kind="stable")][:swaps].tolist()
            self._ahead_of_turn[most_left] += 1
            self._turns.extendleft(reversed(can_wait[-swaps:]))
            waiting = set(can_wait[-swaps:])
            videos = [v for v in videos if v not in waiting] + most_left
        return self._samples(videos)

    def _first_videos(self, batch: int) -> list[int]:
        """Take the turns of up to ``batch`` different videos from the front; those passed by keep their places."""
        taken: dict[int, None] = {}
        passed = []
        wanted = min(batch, int(np.count_nonzero(self._left)))
        while len(taken) < wanted:
            v = self._turns.popleft()
            if self._ahead_of_turn[v]:
                self._ahead_of_turn[v] -= 1
            elif v in taken:
                passed.append(v)
            else:
                taken[v] = None
        self._turns.extendleft(reversed(passed))
        return list(taken)

    def _samples(self, videos: list[int]) -> list[Sample]:
        np.subtract.at(self._left, videos, 1)
        return [(v, next(self._captions[v])) for v in videos]

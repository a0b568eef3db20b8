"""Which (video, caption) pairs make up each batch: a pure function of the seed and the epoch, not of the workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

Sample = tuple[int, int]
"""(index of the video in its split, index of the caption of that video)"""


def steps_per_epoch(captions: Sequence[int], batch: int, mode: Literal["one_per_video", "all"]) -> int:
    """Full batches in an epoch over videos with the given caption counts."""
    samples = sum(captions) if mode == "all" else sum(1 for count in captions if count)
    return samples // batch


def epoch_batches(
    captions: Sequence[int], batch: int, mode: Literal["one_per_video", "all"], *, seed: int, epoch: int
) -> list[list[Sample]]:
    """The full global batches of one epoch, shuffled; the short rest is dropped.

    ``captions``: caption count of each video; videos without any are left out. With ``all``, rounds over the
    videos visit each caption once; a batch holds two captions of one video only when nothing else is left.
    """
    random = np.random.default_rng([seed, epoch])
    captioned = [v for v, count in enumerate(captions) if count]
    orders = {v: random.permutation(captions[v]) for v in captioned}
    rounds = max((captions[v] for v in captioned), default=0) if mode == "all" else min(1, len(captioned))
    queue: deque[Sample] = deque()
    for turn in range(rounds):
        for v in random.permutation(captioned).tolist():
            if turn < captions[v]:
                queue.append((v, int(orders[v][turn])))
    return [_take(queue, batch) for _ in range(steps_per_epoch(captions, batch, mode))]


def _take(queue: deque[Sample], batch: int) -> list[Sample]:
    taken: list[Sample] = []
    seen: set[int] = set()
    deferred: list[Sample] = []
    while queue and len(taken) < batch:
        sample = queue.popleft()
        if sample[0] in seen:
            deferred.append(sample)
        else:
            seen.add(sample[0])
            taken.append(sample)
    missing = batch - len(taken)
    taken += deferred[:missing]
    queue.extendleft(reversed(deferred[missing:]))
    return taken

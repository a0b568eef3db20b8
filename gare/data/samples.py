"""The (video, caption) pairs that a run trains on, and their batches: a function of seed and epoch alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from gare.common.errors import ConfigError
from gare.config import Config
from gare.data.shards import ShardSet, Split
from gare.schema import TAKEN_FROM

NOISE_STREAM: Final = 0x6E6F6973
"""Separates these draws from others made from the same seed."""

DRAWS: Final = 1000
"""Draws of another video's caption before giving up, if all captions are the same."""

Sample = tuple[int, int]
"""(index of the video in its split, index of the caption of that video)"""

Captions = Literal["one_per_video", "all"]
"""The captions that an epoch visits (``data.captions``)."""


def trains_on(config: Config, split: str, attributes: Mapping[str, str]) -> bool:
    """Return True if a run of these settings trains on a video with this split and these attributes.

    With ``protocol.dev`` none these are the train split and what the dev split had taken from it. A dev split that
    comes with the benchmark stays out.
    """
    data = config.data
    if split == data.train_split:
        return True
    taken = attributes.get(TAKEN_FROM) == data.train_split
    return config.protocol.dev == "none" and split == data.dev_split and taken


def training_split(shards: ShardSet, config: Config) -> Split:
    """Return the training videos, in manifest order; InputError if there is no train split."""
    return shards.split(config.data.train_split, belongs=lambda split, attributes: trains_on(config, split, attributes))


def test_cautions(config: Config) -> list[str]:
    """Return a caution about the figures of a run whose ``protocol.test`` is used; empty otherwise."""
    says = (
        "The run was free to train on the test split or to choose its checkpoint by it (protocol.test is used), so its "
        "figures on test say little about new videos."
    )
    return [says] if config.protocol.test == "used" else []


def trained_on(config: Config, split: Split) -> int:
    """Count the videos of a split that a run of these settings trained on: their figures say little about new ones."""
    return sum(trains_on(config, split.name, video.attributes) for video in split.videos)


def noisy_captions(captions: list[list[str]], share: float, seed: int) -> tuple[list[list[str]], int]:
    """Return each video's captions with round(``share`` x their number) of them replaced, and that number.

    The choice depends only on the captions, ``share`` and ``seed`` and is the same in every epoch: wrong labels stay
    wrong. A caption is replaced by one drawn uniformly from the other videos' original captions, and never by a text
    that its own video has. A larger share replaces the captions that a smaller one does, and more.
    """
    places = [(video, caption) for video, texts in enumerate(captions) for caption in range(len(texts))]
    count = round(share * len(places))
    made = [list(texts) for texts in captions]
    order = np.random.default_rng([seed, NOISE_STREAM]).permutation(len(places))
    for place in order[:count].tolist():
        video, caption = places[place]
        random = np.random.default_rng([seed, NOISE_STREAM, place])
        made[video][caption] = _other(captions, places, video, random)
    return made, count


def _other(captions: list[list[str]], places: list[tuple[int, int]], video: int, random: np.random.Generator) -> str:
    for _ in range(DRAWS):
        other, caption = places[int(random.integers(len(places)))]
        text = captions[other][caption]
        if other != video and text not in captions[video]:
            return text
    raise ConfigError(
        "data.caption_noise takes captions of other videos, but the training videos hardly have different ones; "
        "set data.caption_noise=0."
    )


def with_noise(split: Split, share: float, seed: int) -> tuple[Split, int]:
    """Return a training split with that share of its captions replaced, and their number; its frames are the same."""
    if not share:
        return split, 0
    captions, count = noisy_captions([video.captions for video in split.videos], share, seed)
    return split.with_captions(captions), count


def steps_per_epoch(captions: Sequence[int], batch: int, mode: Captions, *, repeat_videos: bool = False) -> int:
    """Return the number of full batches in an epoch over videos with caption counts c, whatever seed and epoch.

    Without ``repeat_videos``, n batches of different videos exist exactly if sum_v min(c_v, n) >= n x batch, which
    holds up to the largest such n.
    """
    counts = _visits(captions, mode)
    full = int(counts.sum()) // batch
    if repeat_videos:
        return full
    low, high = 0, full
    while low < high:
        n = (low + high + 1) // 2
        low, high = (n, high) if np.minimum(counts, n).sum() >= n * batch else (low, n - 1)
    return low


def left_out(captions: Sequence[int], batch: int, mode: Captions) -> int:
    """Count the full batches that an epoch omits because they would hold two captions of one video."""
    repeating = steps_per_epoch(captions, batch, mode, repeat_videos=True)
    return repeating - steps_per_epoch(captions, batch, mode)


def epoch_batches(
    captions: Sequence[int], batch: int, mode: Captions, *, seed: int, epoch: int, repeat_videos: bool = False
) -> list[list[Sample]]:
    """Return the full global batches of one epoch, shuffled, ``steps_per_epoch`` of them; the rest is dropped.

    ``captions``: caption count of each video; videos without any are left out. With ``all``, rounds over the videos
    visit each caption once. A batch never holds two captions of one video, or with ``repeat_videos`` only when nothing
    else is left.
    """
    queue = _Queue(captions, mode, np.random.default_rng([seed, epoch]))
    steps = steps_per_epoch(captions, batch, mode, repeat_videos=repeat_videos)
    if repeat_videos:
        return [queue.take(batch) for _ in range(steps)]
    return [queue.take_distinct(batch, steps - step) for step in range(steps)]


def _visits(captions: Sequence[int], mode: Captions) -> NDArray[np.int64]:
    """Return how often an epoch visits each video."""
    counts = np.array(captions, np.int64)
    return counts if mode == "all" else np.minimum(counts, 1)


class _Queue:
    """The order of an epoch: rounds over the videos in random order, with each video's captions in random order too."""

    def __init__(self, captions: Sequence[int], mode: Captions, random: np.random.Generator) -> None:
        captioned = [v for v, count in enumerate(captions) if count]
        self._captions = {v: iter(random.permutation(captions[v]).tolist()) for v in captioned}
        self._left = _visits(captions, mode)
        self._ahead_of_turn = np.zeros(len(captions), np.int64)
        self._turns: deque[int] = deque()
        for turn in range(int(self._left.max(initial=0))):
            self._turns.extend(v for v in random.permutation(captioned).tolist() if turn < captions[v])

    def take(self, batch: int) -> list[Sample]:
        """Take the next samples of different videos, and of repeated ones if there are too few."""
        videos = self._first_videos(batch)
        videos += [self._turns.popleft() for _ in range(batch - len(videos))]
        return self._samples(videos)

    def take_distinct(self, batch: int, to_go: int) -> list[Sample]:
        """Take the next samples of different videos so that the ``to_go - 1`` batches after this one can be full too.

        A video with at least ``to_go`` captions left loses one for good if it is not in this batch; at most ``spare``
        such losses are affordable. Beyond that it replaces a video that has fewer.
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
        """Take the turns of up to ``batch`` different videos from the front; skipped turns keep their places."""
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

"""The query bank of QB-Norm: captions and videos of the split a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gare.common.errors import InputError
from gare.data.shards import Split


@dataclass(frozen=True)
class QueryBank:
    """``texts``: captions drawn from ``split``; ``videos``: numbers of videos drawn from it."""

    split: Split
    texts: list[str]
    videos: list[int]
    seed: int


def draw_bank(train: Split, evaluated: Split, size: int, seed: int) -> QueryBank:
    """Draw ``size`` captions and as many videos of ``train``, all of them where there are fewer.

    Raises InputError when ``train`` is the split that is evaluated, whose queries must stay unknown, or has no
    captions.
    """
    if train.name == evaluated.name:
        raise InputError(
            f"The query bank cannot come from {train.name!r}, the split that is evaluated; leave out --query-bank."
        )
    captions = [caption for video in train.videos for caption in video.captions]
    if not captions:
        raise InputError(f"The split {train.name!r} of {train.folder} has no captions for a query bank.")
    random = np.random.default_rng(seed)
    texts = random.choice(len(captions), min(size, len(captions)), replace=False)
    videos = random.choice(len(train), min(size, len(train)), replace=False)
    return QueryBank(train, [captions[i] for i in np.sort(texts)], np.sort(videos).tolist(), seed)

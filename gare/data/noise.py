"""Noise in the supervision on purpose (``data.caption_noise``): some training captions are those of other videos."""

from __future__ import annotations

from typing import Final

import numpy as np

from gare.common.errors import ConfigError
from gare.data.shards import Split

NOISE_STREAM: Final = 0x6E6F6973
"""Keeps these draws apart from the others made from the same seed."""

DRAWS: Final = 1000
"""Draws of another video's caption before giving up: all captions say the same."""


def noisy_captions(captions: list[list[str]], share: float, seed: int) -> tuple[list[list[str]], int]:
    """The captions of each video with round(``share`` x their number) of them replaced, and that number.

    Which ones and by what is a function of the captions, ``share`` and ``seed``, the same in every epoch: wrong labels
    stay wrong. A caption is replaced by one drawn uniformly from those of the other videos, as they were before, and
    never by a text that its own video has. A larger share replaces the captions that a smaller one does, and more.
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
    """A caption of another video."""
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
    """A training split with that share of its captions replaced, and how many that is; its frames are the same."""
    if not share:
        return split, 0
    captions, count = noisy_captions([video.captions for video in split.videos], share, seed)
    return split.with_captions(captions), count

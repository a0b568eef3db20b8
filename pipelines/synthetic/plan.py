"""Plan the clips of a corpus and their splits.

Dev and test use whole appearances (shape, colour, size) that train never shows, each as a group of four clips that
share everything, including the background and the codec, except the motion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Final, Protocol

import numpy as np

from gare.common.errors import InputError
from pipelines.synthetic.captions import describe
from pipelines.synthetic.encode import FORMATS, Format
from pipelines.synthetic.scenes import COLOURS, MIDDLE_JITTER, MOTIONS, REACH, SHAPES, SIZES, Appearance, Picture, Scene

GROUP: Final = 4
TEST_GROUPS: Final = 60
DEV_GROUPS: Final = 20
MINIMUM_VIDEOS: Final = 12
SPLITS: Final = ("train", "dev", "test")
SHORT_SIDES: Final = (80, 96, 112, 128)
ASPECTS: Final = (Fraction(1), Fraction(4, 3), Fraction(3, 4), Fraction(16, 9), Fraction(9, 16))
RATES: Final = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2), Fraction(15))
SECONDS: Final = (2.0, 4.0)

# One independent random stream per purpose, so that no draw depends on how many came before it.
_HOLD, _TRAIN, _MOTIONS, _LOOKS, _WORDS = range(5)


class Drawable(Protocol):
    """Content of a clip that can be rendered."""

    @property
    def attributes(self) -> dict[str, str]:
        """Visible properties, by name."""

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def height(self) -> int:
        """Height in pixels."""

    @property
    def fps(self) -> Fraction:
        """Frames per second."""

    def render(self) -> Iterator[Picture]:
        """Yield the frames: uint8 RGB [height, width, 3]."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One video of a corpus."""

    video_id: str
    split: str
    scene: Drawable
    format: Format
    captions: tuple[str, ...]

    @property
    def file(self) -> str:
        """Path relative to the corpus folder."""
        return f"videos/{self.video_id}.{self.format.extension}"


def split_sizes(videos: int) -> dict[str, int]:
    """Return the number of videos in train, dev and test. Raises InputError for fewer than 12 videos."""
    if videos < MINIMUM_VIDEOS:
        raise InputError(f"A corpus needs at least {MINIMUM_VIDEOS} videos, {videos} asked for.")
    test = GROUP * min(TEST_GROUPS, max(1, videos // 10))
    dev = GROUP * min(DEV_GROUPS, max(1, videos // 30))
    return {"train": videos - dev - test, "dev": dev, "test": test}


def held_out(seed: int) -> tuple[list[Appearance], list[Appearance]]:
    """Choose the appearances of dev and of test, 20 and 60; train keeps one or two of every shape in every colour."""
    rng = np.random.default_rng([seed, _HOLD])
    pairs = list(product(SHAPES, COLOURS))
    sizes = {pair: rng.permutation(list(SIZES)) for pair in pairs}
    order = rng.permutation(len(pairs))
    twice = [*(pairs[i] for i in order), *(pairs[i] for i in order[: TEST_GROUPS + DEV_GROUPS - len(pairs)])]
    seen: set[tuple[str, str]] = set()
    chosen = []
    for shape, colour in twice:
        again = (shape, colour) in seen
        chosen.append(Appearance(shape, colour, str(sizes[shape, colour][int(again)])))
        seen.add((shape, colour))
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    return chosen[:DEV_GROUPS], chosen[DEV_GROUPS:]


def plan(videos: int, seed: int) -> list[Clip]:
    """Plan every clip of a corpus, in order, from ``videos`` and ``seed`` alone."""
    sizes = split_sizes(videos)
    dev, test = held_out(seed)
    clips = list(_train(sizes["train"], seed, {*dev, *test}))
    clips += _groups("dev", dev[: sizes["dev"] // GROUP], seed)
    clips += _groups("test", test[: sizes["test"] // GROUP], seed)
    return clips


def _train(count: int, seed: int, excluded: set[Appearance]) -> Iterator[Clip]:
    """Yield ``count`` clips: each combination left to train once, in random order, and then again as needed."""
    looks = [look for look in Appearance.all() if look not in excluded]
    combinations = list(product(looks, MOTIONS))
    rng = np.random.default_rng([seed, _TRAIN])
    order = np.concatenate([rng.permutation(len(combinations)) for _ in range(-(-count // len(combinations)))])
    for index in range(count):
        look, motion = combinations[order[index]]
        yield _clip("train", index, index, look, motion, seed)


def _groups(split: str, looks: list[Appearance], seed: int) -> Iterator[Clip]:
    for group, look in enumerate(looks):
        rng = np.random.default_rng([seed, _MOTIONS, SPLITS.index(split), group])
        for member, motion in enumerate(rng.permutation(list(MOTIONS))[:GROUP]):
            yield _clip(split, group * GROUP + member, group, look, str(motion), seed)


def _clip(split: str, index: int, group: int, look: Appearance, motion: str, seed: int) -> Clip:
    """Make a clip; its other properties (frame size, rate, length, codec, background, place) are its group's."""
    key = [SPLITS.index(split), group]
    rng = np.random.default_rng([seed, _LOOKS, *key])
    width, height, fps = choose_view(rng)
    seconds = rng.uniform(*SECONDS)
    x, y = (0.5 + rng.uniform(-MIDDLE_JITTER, MIDDLE_JITTER, 2)).tolist()
    scene = Scene(
        look=look,
        motion=motion,
        width=width,
        height=height,
        fps=fps,
        frames=int(float(fps) * seconds) | 1,
        middle=(x, y),
        reach=float(rng.uniform(*REACH)),
        background_seed=(seed, *key),
    )
    form = choose_format(rng)
    words = np.random.default_rng([seed, _WORDS, SPLITS.index(split), index])
    return Clip(f"{split}_{index:05d}", split, scene, form, describe(look, motion, words))


def choose_format(rng: np.random.Generator) -> Format:
    """Draw a codec and container by their weights."""
    weights = np.array([form.weight for form in FORMATS], dtype=np.float64)
    return FORMATS[rng.choice(len(FORMATS), p=weights / weights.sum())]


def choose_view(rng: np.random.Generator) -> tuple[int, int, Fraction]:
    """Draw width and height in pixels, both even as the codecs require, and frames per second."""
    short = SHORT_SIDES[rng.integers(len(SHORT_SIDES))]
    aspect = ASPECTS[rng.integers(len(ASPECTS))]
    long = 2 * round(short * max(aspect, 1 / aspect) / 2)
    width, height = (long, short) if aspect >= 1 else (short, long)
    return width, height, RATES[rng.integers(len(RATES))]

"""A corpus of events: several objects per clip move at different times, and each caption names one of them.

Use it to compare models. A caption describes only part of its clip; twin clips show the same events, so that their
captions are interchangeable (false negatives for InfoNCE); and the clips of a dev or test group show the same
objects, so that they differ only in which object moves where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from gare.common.errors import InputError
from pipelines.synthetic.captions import describe
from pipelines.synthetic.plan import DEV_GROUPS, SPLITS, TEST_GROUPS, Clip, choose_format, choose_view, held_out
from pipelines.synthetic.scenes import (
    MOTIONS,
    SIZES,
    Appearance,
    Picture,
    draw_background,
    draw_clutter,
    draw_mask,
    object_colour,
    paste,
    positions,
)

GROUP: Final = len(MOTIONS)
MINIMUM_VIDEOS: Final = 3 * GROUP
SCALE: Final = 0.75
"""Size of an object relative to the corpus of single objects: several must fit."""

SECONDS: Final = (3.0, 5.0)
LASTS: Final = (0.5, 0.7)
"""Range of an event's length, as a share of its clip."""

JITTER: Final = 0.3
"""Range of the random shift of an event's start among the events of its clip."""

REACH: Final = (0.17, 0.2)

_CONTENT, _NUISANCE, _WORDS = range(10, 13)  # streams of random numbers, other than those of the plan


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Difficulty of a corpus of events.

    Attributes:
        events: events, and captions, per clip; 2 to 5.
        clutter: still, greyish shapes in the background of each clip; 0 to 40.
        twins: share of training clips that have a twin with the same events; 0 to 1.

    """

    events: int = 3
    clutter: int = 6
    twins: float = 0.1

    def __post_init__(self) -> None:
        for name, least, most in (("events", 2, 5), ("clutter", 0, 40), ("twins", 0, 1)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"A corpus of events needs {name} between {least} and {most}, not {value}.")


@dataclass(frozen=True, slots=True)
class Event:
    """One object that moves at constant speed during frames ``start`` to ``stop``, excluding ``stop``."""

    look: Appearance
    motion: str
    middle: tuple[float, float]
    reach: float
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class EventScene:
    """One clip before encoding; later events are drawn over earlier ones."""

    events: tuple[Event, ...]
    clutter: int
    width: int
    height: int
    fps: Fraction
    frames: int
    background_seed: tuple[int, ...]

    @property
    def attributes(self) -> dict[str, str]:
        """``events``: the events in a fixed order, so that clips with the same events have the same value."""
        return {"events": "; ".join(sorted(f"{' '.join(event.look)} {event.motion}" for event in self.events))}

    def render(self) -> Iterator[Picture]:
        """Yield the frames: uint8 RGB [height, width, 3], ``frames`` of them."""
        rng = np.random.default_rng(self.background_seed)
        background = draw_background(rng, self.height, self.width)
        draw_clutter(rng, background, self.clutter)
        side = min(self.width, self.height)
        corner = np.array([(self.width - side) / 2, (self.height - side) / 2])
        drawn = [
            (
                event,
                object_colour(rng, event.look.colour),
                draw_mask(event.look.shape, SCALE * SIZES[event.look.size] * side),
                corner + side * positions(event.motion, event.middle, event.reach, event.stop - event.start),
            )
            for event in self.events
        ]
        for frame in range(self.frames):
            picture = background
            for event, colour, mask, places in drawn:
                if event.start <= frame < event.stop:
                    picture = paste(picture, mask, colour, places[frame - event.start])
            yield picture


def plan_events(videos: int, seed: int, difficulty: Difficulty) -> list[Clip]:
    """Plan every clip of a corpus, in order, from the arguments alone.

    Dev and test come in groups of eight clips with the same objects: within a group, each object makes each of the
    eight motions once, so every caption has one correct clip and seven that show its object moving differently.
    """
    sizes = split_sizes(videos, difficulty)
    dev, test = held_out(seed)
    clips = list(_train(sizes["train"], seed, difficulty, {*dev, *test}))
    for split, looks in (("dev", dev), ("test", test)):
        clips += _groups(split, looks, sizes[split] // GROUP, seed, difficulty)
    return clips


def split_sizes(videos: int, difficulty: Difficulty) -> dict[str, int]:
    """Return the number of videos in train, dev and test. Raises InputError for fewer than 24."""
    if videos < MINIMUM_VIDEOS:
        raise InputError(f"A corpus of events needs at least {MINIMUM_VIDEOS} videos, {videos} asked for.")
    test = GROUP * min(TEST_GROUPS // difficulty.events, max(1, videos // 80))
    dev = GROUP * min(DEV_GROUPS // difficulty.events, max(1, videos // 240))
    return {"train": videos - dev - test, "dev": dev, "test": test}


def _train(count: int, seed: int, difficulty: Difficulty, excluded: set[Appearance]) -> Iterator[Clip]:
    """Yield clips of random events; the first ``twins`` of them are pairs with the same events."""
    looks = [look for look in Appearance.all() if look not in excluded]
    paired = 2 * round(count * difficulty.twins / 2)
    for index in range(count):
        content = index // 2 if index < paired else index
        rng = np.random.default_rng([seed, _CONTENT, 0, content])
        chosen = [looks[i] for i in rng.choice(len(looks), difficulty.events, replace=False)]
        motions = rng.choice(list(MOTIONS), difficulty.events).tolist()
        yield _clip("train", index, index, list(zip(chosen, motions, strict=True)), seed, difficulty)


def _groups(split: str, looks: Sequence[Appearance], count: int, seed: int, difficulty: Difficulty) -> Iterator[Clip]:
    number = difficulty.events
    for group in range(count):
        rng = np.random.default_rng([seed, _CONTENT, SPLITS.index(split), group])
        chosen, motions = looks[group * number : (group + 1) * number], rng.permutation(list(MOTIONS)).tolist()
        shifts = rng.permutation(GROUP)[:number].tolist()
        for member in range(GROUP):
            told = [(look, motions[(member + shift) % GROUP]) for look, shift in zip(chosen, shifts, strict=True)]
            yield _clip(split, group * GROUP + member, group, told, seed, difficulty)


def _clip(
    split: str, index: int, nuisance: int, told: list[tuple[Appearance, str]], seed: int, difficulty: Difficulty
) -> Clip:
    """Make a clip; frame size, rate, length, codec, background, places and times are those of ``nuisance``."""
    key = [SPLITS.index(split), nuisance]
    rng = np.random.default_rng([seed, _NUISANCE, *key])
    width, height, fps = choose_view(rng)
    frames = int(float(fps) * rng.uniform(*SECONDS))
    order = rng.permutation(len(told)).tolist()
    events = []
    for place, (look, motion) in enumerate(told):
        lasts = round(frames * rng.uniform(*LASTS))
        turn = (order[place] + rng.uniform(-JITTER, JITTER)) / (len(told) - 1)
        start = round(min(max(turn, 0.0), 1.0) * (frames - lasts))
        reach = float(rng.uniform(*REACH))
        # The middle is uniform over all places from which no motion leaves the picture, so one frame reveals no motion.
        spread = 0.5 - reach - SCALE * SIZES[look.size] / 2
        x, y = (0.5 + rng.uniform(-spread, spread, 2)).tolist()
        events.append(Event(look, motion, (x, y), reach, start, start + lasts))
    scene = EventScene(tuple(events), difficulty.clutter, width, height, fps, frames, (seed, *key))
    words = np.random.default_rng([seed, _WORDS, SPLITS.index(split), index])
    captions = tuple(describe(look, motion, words)[0] for look, motion in told)
    return Clip(f"{split}_{index:05d}", split, scene, choose_format(rng), captions)

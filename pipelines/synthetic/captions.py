"""Write sentences about a clip; each names its shape, colour, size and motion."""

from __future__ import annotations

from typing import Final

import numpy as np

from pipelines.synthetic.scenes import Appearance

CAPTIONS_PER_VIDEO: Final = 3

SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little"),
    "medium": ("medium", "middling"),
    "large": ("large", "big"),
}
VERBS: Final = (("moving", "moves"), ("going", "goes"), ("drifting", "drifts"))
WAYS: Final[dict[str, tuple[str, ...]]] = {
    "left": ("left", "to the left", "leftward"),
    "right": ("right", "to the right", "rightward"),
    "up": ("up", "upward", "straight up"),
    "down": ("down", "downward", "straight down"),
    "upper left": ("to the upper left", "diagonally up and left"),
    "upper right": ("to the upper right", "diagonally up and right"),
    "lower left": ("to the lower left", "diagonally down and left"),
    "lower right": ("to the lower right", "diagonally down and right"),
}
TEMPLATES: Final = (
    "a {size} {colour} {shape} is {doing}",
    "the {size} {colour} {shape} {does}",
    "there is a {size} {colour} {shape} {doing}",
    "a {shape} that is {size} and {colour} {does}",
    "a video of a {size} {shape} in {colour} {doing}",
    "something {size} and {colour} {does} , it is a {shape}",
    "{doing} across the picture is a {size} {colour} {shape}",
)


def motion_phrases(motion: str) -> tuple[str, ...]:
    """Return every wording of a motion; no wording of one motion occurs inside a wording of another."""
    return tuple(f"{verb} {way}" for verbs in VERBS for verb in verbs for way in WAYS[motion])


def describe(look: Appearance, motion: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Return three captions from three different templates, with words drawn from ``rng``."""
    chosen = rng.choice(len(TEMPLATES), CAPTIONS_PER_VIDEO, replace=False)
    return tuple(_fill(TEMPLATES[index], look, motion, rng) for index in chosen)


def _fill(template: str, look: Appearance, motion: str, rng: np.random.Generator) -> str:
    doing, does = VERBS[rng.integers(len(VERBS))]
    way = WAYS[motion][rng.integers(len(WAYS[motion]))]
    size = SIZE_WORDS[look.size][rng.integers(len(SIZE_WORDS[look.size]))]
    return template.format(
        shape=look.shape, colour=look.colour, size=size, doing=f"{doing} {way}", does=f"{does} {way}"
    )

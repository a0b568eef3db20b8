"""Scenes: one object of some shape, colour and size that moves at constant speed over a dark, greyish background.

Lengths are fractions of the central square's side (the frame's short side); x grows to the right, y downward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (235, 25, 25),
    "orange": (255, 140, 0),
    "yellow": (250, 235, 30),
    "green": (30, 185, 50),
    "cyan": (40, 225, 230),
    "blue": (35, 75, 255),
    "purple": (145, 45, 215),
    "pink": (255, 130, 195),
    "white": (245, 245, 245),
}
SIZES: Final[dict[str, float]] = {"small": 0.19, "medium": 0.285, "large": 0.42}
"""Diameter of the object's bounding square."""

MOTIONS: Final[dict[str, tuple[float, float]]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "upper left": (-0.85, -0.85),
    "upper right": (0.85, -0.85),
    "lower left": (-0.85, 0.85),
    "lower right": (0.85, 0.85),
}
"""Direction from the middle of the clip to its end, in units of the clip's reach."""

MIDDLE_JITTER: Final = 0.05
"""The centre at mid-clip is uniform in 0.5 +- this in x and y for every motion, so one frame reveals none."""

REACH: Final = (0.2, 0.235)
"""Range of the distance from the middle of the clip to its end."""


def _star() -> list[tuple[float, float]]:
    radii = (1.0, 0.42)
    angles = [math.pi * step / 5 - math.pi / 2 for step in range(10)]
    return [(radii[i % 2] * math.cos(angle), radii[i % 2] * math.sin(angle)) for i, angle in enumerate(angles)]


_SUBPIXELS: Final = 4

_POLYGONS: Final[dict[str, list[tuple[float, float]]]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star(),
    "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
              (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
    "bar": [(-1.0, -0.4), (1.0, -0.4), (1.0, 0.4), (-1.0, 0.4)],
}  # fmt: skip
_ROUND: Final[dict[str, float]] = {"circle": 0.0, "ring": 0.6}
"""Inner radius of the round shapes."""

SHAPES: Final = (*_ROUND, *_POLYGONS)


class Appearance(NamedTuple):
    """The visible properties of one frame; dev and test use whole appearances that train never shows."""

    shape: str
    colour: str
    size: str

    @classmethod
    def all(cls) -> list[Appearance]:
        """Return every possible appearance, in a fixed order."""
        return [cls(*parts) for parts in product(SHAPES, COLOURS, SIZES)]


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip before encoding; ``middle`` is the centre at mid-clip, ``reach`` the distance covered from there."""

    look: Appearance
    motion: str
    width: int
    height: int
    fps: Fraction
    frames: int
    middle: tuple[float, float]
    reach: float
    background_seed: tuple[int, ...]

    @property
    def attributes(self) -> dict[str, str]:
        """The visible properties of the clip, by name."""
        return self.look._asdict() | {"motion": self.motion}

    def render(self) -> Iterator[Picture]:
        """Yield the frames: uint8 RGB [height, width, 3], ``frames`` of them."""
        rng = np.random.default_rng(self.background_seed)
        background = draw_background(rng, self.height, self.width)
        colour = object_colour(rng, self.look.colour)
        side = min(self.width, self.height)
        mask = draw_mask(self.look.shape, SIZES[self.look.size] * side)
        corner = np.array([(self.width - side) / 2, (self.height - side) / 2])
        for centre in centres(self):
            yield paste(background, mask, colour, corner + centre * side)


def centres(scene: Scene) -> Floats:
    """Return the object's centre in every frame: [frames, 2], x and y in [0, 1] of the central square.

    The number of frames is odd, so the frame at mid-clip shows the centre exactly at ``scene.middle``.
    """
    return positions(scene.motion, scene.middle, scene.reach, scene.frames)


def positions(motion: str, middle: tuple[float, float], reach: float, frames: int) -> Floats:
    """Return the centres of a motion through ``middle`` at half time: [frames, 2], x and y."""
    time_F = np.linspace(-1.0, 1.0, frames)  # noqa: N806 - shape suffix
    offsets_F2: Floats = reach * time_F[:, None] * np.asarray(MOTIONS[motion])  # noqa: N806
    return np.asarray(middle) + offsets_F2


def draw_background(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Draw a dark, almost grey background, far from every colour, with gradient and grain: [height, width, 3]."""
    tone = rng.uniform(28, 70) + rng.uniform(-6, 6, 3)
    slope_y, slope_x = rng.uniform(-14, 14, 2)
    gradient = slope_y * np.linspace(-1, 1, height)[:, None] + slope_x * np.linspace(-1, 1, width)[None, :]
    grain = rng.normal(0.0, 2.0, (height, width))
    picture: Picture = np.clip(np.rint(tone + (gradient + grain)[:, :, None]), 0, 110).astype(np.uint8)
    return picture


def draw_clutter(rng: np.random.Generator, background: Picture, count: int) -> None:
    """Draw ``count`` still shapes, almost grey and darker than any object, on ``background`` [height, width, 3]."""
    height, width, _ = background.shape
    for _ in range(count):
        mask = draw_mask(SHAPES[rng.integers(len(SHAPES))], float(rng.uniform(0.08, 0.2)) * min(height, width))
        place = rng.uniform(0.05, 0.95, 2) * (width, height)
        background[:] = paste(background, mask, rng.uniform(50, 125) + rng.uniform(-8, 8, 3), place)


def object_colour(rng: np.random.Generator, name: str) -> npt.NDArray[Any]:
    """Draw a shade of a colour: [3]."""
    return np.clip(np.asarray(COLOURS[name]) + rng.integers(-8, 9, 3), 0, 255)


def draw_mask(shape: str, diameter: float) -> Floats:
    """Draw the shape (0 or 1) on a grid of quarter pixels, centred, with a margin of a pixel on every side."""
    side = (2 * math.ceil(diameter / 2) + 2) * _SUBPIXELS
    image = Image.new("L", (side, side), 0)
    draw, middle, radius = ImageDraw.Draw(image), side / 2, diameter / 2 * _SUBPIXELS
    if shape in _ROUND:
        for fraction, value in ((1.0, 255), (_ROUND[shape], 0)):
            reach = fraction * radius
            if reach:
                draw.ellipse((middle - reach, middle - reach, middle + reach - 1, middle + reach - 1), fill=value)
    else:
        draw.polygon([(middle + radius * x - 0.5, middle + radius * y - 0.5) for x, y in _POLYGONS[shape]], fill=255)
    return np.asarray(image, dtype=np.float64) / 255


def paste(background: Picture, fine: Floats, colour: npt.NDArray[Any], centre: Floats) -> Picture:
    """Paste the fine mask with its middle at ``centre`` (x, y in pixels), to a quarter of a pixel."""
    left, top = np.rint(centre * _SUBPIXELS - fine.shape[0] / 2).astype(int)
    (column, shift_x), (row, shift_y) = divmod(int(left), _SUBPIXELS), divmod(int(top), _SUBPIXELS)
    span = fine.shape[0] // _SUBPIXELS + 1
    shifted = np.zeros((span * _SUBPIXELS, span * _SUBPIXELS))
    shifted[shift_y : shift_y + fine.shape[0], shift_x : shift_x + fine.shape[0]] = fine
    cover = shifted.reshape(span, _SUBPIXELS, span, _SUBPIXELS).mean(axis=(1, 3))[:, :, None]
    picture = background.copy()
    # The mask's empty rim may reach past the frame; the object itself never does.
    y0, x0 = max(row, 0), max(column, 0)
    part = picture[y0 : row + span, x0 : column + span]
    cover = cover[y0 - row : y0 - row + part.shape[0], x0 - column : x0 - column + part.shape[1]]
    part[:] = np.rint(part + cover * (colour - part))
    return picture

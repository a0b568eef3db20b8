"""From a decoded frame to the stored picture: crop and resize in one step, then upright."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gare.config.prepare import PrepareConfig
from pipelines.decode.errors import DecodeError

Picture = NDArray[np.uint8]
BICUBIC_RADIUS: Final = 2
MOST_WIDENED: Final = 1.3
SWSCALE_FLAGS: Final = 4 | 0x2000
"""Bicubic, with colour at full width: without it an even width gets half the colours, several grey levels off."""


def resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height after resizing so that the shorter is ``short_side`` pixels; the other is truncated."""
    shorter = min(width, height)
    return max(short_side, width * short_side // shorter), max(short_side, height * short_side // shorter)


def can_be_shape(recipe: PrepareConfig, height: int, width: int) -> bool:
    """Whether ``picture`` can make frames of this shape."""
    if recipe.crop is not None:
        return height == width == recipe.crop
    short, long = sorted((height, width))
    return short == recipe.short_side and long <= recipe.short_side * recipe.limits.max_aspect


def corner(width: int, height: int, crop: int) -> tuple[int, int]:
    """Left and top of the centre square of side ``crop``."""
    return round((width - crop) / 2), round((height - crop) / 2)


class Cut(NamedTuple):
    """One axis of a crop: source pixels ``low`` to ``high`` become ``pixels``, the kept ones starting at ``skip``."""

    low: float
    high: float
    pixels: int
    skip: int


def cut(source: int, whole: int, start: int, length: int) -> Cut:
    """Find what of ``source`` pixels becomes ``start`` to ``start + length`` of ``whole`` ones.

    PIL keeps bounds in single precision, and that shows in pictures of even slopes. So a few more pixels than kept
    are made where bounds are whole numbers then; elsewhere the bounds are fractions and the difference is noise.
    """
    grid = whole // math.gcd(source, whole)
    first, last = start // grid * grid, min(whole, -(-(start + length) // grid) * grid)
    if last - first <= MOST_WIDENED * length:
        return Cut(first * source / whole, last * source / whole, last - first, start - first)
    return Cut(start * source / whole, min(float(source), (start + length) * source / whole), length, 0)


def picture(frame: Any, reformatter: Any, recipe: PrepareConfig) -> Picture:
    """RGB uint8 [height, width, 3] of a decoded frame: bicubic with antialias, turned as its rotation says.

    Raises DecodeError(too_elongated) for a frame longer than ``limits.max_aspect`` that is not cropped. Such a frame
    is never resized whole: with swscale and a crop, it goes through PIL.
    """
    elongated = max(frame.width, frame.height) > recipe.limits.max_aspect * min(frame.width, frame.height)
    if elongated and recipe.crop is None:
        size = f"{frame.width} x {frame.height}"
        raise DecodeError("too_elongated", f"{size} pixels; set prepare.crop, or prepare.limits.max_aspect.")
    resize = _by_swscale if recipe.resize == "swscale" and not elongated else _by_pil
    made = resize(frame, reformatter, recipe.short_side, recipe.crop)
    turns = round((frame.rotation or 0) / 90)  # a decoder leaves the picture as it is stored
    return np.ascontiguousarray(np.rot90(made, turns))


def _by_pil(frame: Any, reformatter: Any, short_side: int, crop: int | None) -> Picture:
    """Crop and resize in one: as if the frame were resized whole and its centre square cut out then.

    Cropping first costs the same whatever the shape: a strip of 8192 x 2 is no trouble.
    """
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    width, height = resized(frame.width, frame.height, short_side)
    (left, top), across, down = (0, 0), width, height
    if crop is not None:
        (left, top), across, down = corner(width, height, crop), crop, crop
    columns, rows = cut(frame.width, width, left, across), cut(frame.height, height, top, down)
    made = _resize(rgb, columns, rows)
    return made[rows.skip : rows.skip + down, columns.skip : columns.skip + across]


def _resize(rgb: Picture, columns: Cut, rows: Cut) -> Picture:
    """Resize a rectangle of a picture, each row before the columns.

    Pillow before 13 always did so; since then it chooses the order by the shape, and the order changes the rounding.
    """
    across, down = _reach(columns, rgb.shape[1]), _reach(rows, rgb.shape[0])
    part = Image.fromarray(rgb[down, across])
    box = columns.low - across.start, 0, columns.high - across.start, part.height
    wide = part.resize((columns.pixels, part.height), Image.Resampling.BICUBIC, box=box)
    box = 0, rows.low - down.start, columns.pixels, rows.high - down.start
    return np.asarray(wide.resize((columns.pixels, rows.pixels), Image.Resampling.BICUBIC, box=box))


def _reach(axis: Cut, end: int) -> slice:
    """Bounds of the source pixels that count."""
    support = BICUBIC_RADIUS * max(1.0, (axis.high - axis.low) / axis.pixels) + 1
    return slice(max(0, math.floor(axis.low - support)), min(end, math.ceil(axis.high + support)))


def _by_swscale(frame: Any, reformatter: Any, short_side: int, crop: int | None) -> Picture:
    width, height = resized(frame.width, frame.height, short_side)
    small = reformatter.reformat(
        frame, width=width, height=height, format="rgb24", interpolation=SWSCALE_FLAGS, threads=1
    )
    made: Picture = small.to_ndarray()
    if crop is None:
        return made
    left, top = corner(width, height, crop)
    return made[top : top + crop, left : left + crop]

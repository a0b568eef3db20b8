"""From a decoded frame to the stored square: crop and resize in one step, then upright."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]


def crop_box(width: int, height: int, short_side: int, crop: int) -> tuple[float, float, float, float]:
    """Find the source rectangle (left, top, right, bottom) that becomes the centre square of the resized frame.

    As if the frame were resized so that its shorter side is ``short_side`` pixels (the other truncated) and its
    centre square of side ``crop`` were cut out then.
    """
    shorter = min(width, height)
    new_width = max(short_side, width * short_side // shorter)
    new_height = max(short_side, height * short_side // shorter)
    left, top = round((new_width - crop) / 2), round((new_height - crop) / 2)
    scale_x, scale_y = width / new_width, height / new_height
    # The product can exceed the frame by a rounding error, which PIL refuses.
    right, bottom = min(float(width), (left + crop) * scale_x), min(float(height), (top + crop) * scale_y)
    return left * scale_x, top * scale_y, right, bottom


def picture(frame: Any, reformatter: Any, *, short_side: int, crop: int) -> Picture:
    """RGB uint8 [crop, crop, 3] of a decoded frame: bicubic with antialias, turned as its rotation says."""
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    height, width = rgb.shape[:2]
    box = crop_box(width, height, short_side, crop)
    square = Image.fromarray(rgb).resize((crop, crop), Image.Resampling.BICUBIC, box=box)
    turns = round((frame.rotation or 0) / 90)  # a decoder leaves the picture as it is stored
    return np.ascontiguousarray(np.rot90(np.asarray(square), turns))

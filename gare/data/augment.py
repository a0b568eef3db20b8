"""RandAugment on whole clips, on the device (``data.augment`` rand): one draw for all frames of a clip.

The published recipe (the method's section 4): 4 operations drawn with replacement, each applied with probability 0.5,
magnitude N(7, 0.5) of 10, "increasing": larger is always stronger. Warps are bicubic, and the pixels that they uncover
are grey (128, 128, 128), as in PIL; the other operations are kornia's. The draws are ours, one generator per sample and
epoch, so that they do not depend on batch, rank or worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gare.common.errors import ConfigError
from gare.data.batches import Batch, draws
from gare.data.samples import Sample

AUGMENT_STREAM: Final = 0x72616E64
"""Separates these draws from others made from the same seed and epoch."""

OPERATIONS: Final = 4
PROBABILITY: Final = 0.5
MAGNITUDE: Final = 7.0
SPREAD: Final = 0.5
STRONGEST: Final = 10.0

# The strongest magnitude: a turn in degrees, a shear, a shift as a share of the side, the distance of a colour factor
# from 1, and the grey level of 256 that solarize-add adds.
TURN, SHEAR, SHIFT, FACTOR, ADDED = 30.0, 0.3, 0.45, 0.9, 110

GREY: Final = 128 / 255
"""The colour of pixels that a warp uncovers."""


@dataclass(frozen=True)
class Draw:
    """One operation on a clip: its name, its strength in [0, 1] and its sign, which some operations ignore."""

    name: str
    strength: float
    sign: int


def check_augment(augment: str) -> None:
    """Raise ConfigError if ``data.augment`` needs a package that is not installed."""
    if augment != "none" and find_spec("kornia") is None:
        raise ConfigError(f"data.augment is {augment}, which needs kornia; pip install 'gare-ray[augment]'.")


def augment_draws(seed: int, epoch: int, sample: Sample) -> list[Draw]:
    """Draw the operations on a sample's clip in an epoch, in order."""
    random = draws(seed, epoch, sample, AUGMENT_STREAM)
    names = list(TABLE)
    drawn = []
    for _ in range(OPERATIONS):
        name = names[int(random.integers(len(names)))]
        strength = float(np.clip(random.normal(MAGNITUDE, SPREAD), 0, STRONGEST)) / STRONGEST
        sign = 1 if random.random() < 0.5 else -1
        if random.random() < PROBABILITY:
            drawn.append(Draw(name, strength, sign))
    return drawn


@torch.no_grad()
def augmented(batch: Batch, samples: Sequence[Sample], seed: int, epoch: int) -> Batch:
    """Augment the frames of each sample's clip on their device; padded frames stay zero."""
    frames = batch.frames.clone()
    # Counted so that short clips' padded frames are not processed.
    lengths = batch.valid or batch.frame_mask.sum(dim=1).tolist()
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        drawn = augment_draws(seed, epoch, sample)
        if drawn:
            frames[row, :length] = apply(frames[row, :length], drawn)
    return replace(batch, frames=frames)


def apply(clip: Tensor, drawn: Sequence[Draw]) -> Tensor:
    """Apply these operations to a clip [F, 3, H, W] (uint8)."""
    import kornia

    picture = clip.contiguous().float() / 255
    for draw in drawn:
        picture = TABLE[draw.name](kornia, picture, draw).clamp(0, 1)
    return (picture * 255).round().to(torch.uint8)


Operation = Callable[[ModuleType, Tensor, Draw], Tensor]


def _enhanced(name: str) -> Operation:
    """Make an operation for which a factor of 1 changes nothing, and other factors weaken or strengthen."""

    def operation(kornia: ModuleType, x: Tensor, draw: Draw) -> Tensor:
        changed: Tensor = getattr(kornia.enhance, name)(x, 1 + draw.sign * FACTOR * draw.strength)
        return changed

    return operation


Affine = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: the pixel at (x, y) comes from (ax + by + c, dx + ey + f) of the original picture, in pixels."""


def _warped(come_from: Callable[[Draw, int, int], Affine]) -> Operation:
    """Make a warp from a function of draw, height and width."""

    def operation(kornia: ModuleType, x: Tensor, draw: Draw) -> Tensor:
        del kornia
        return warp(x, come_from(draw, *x.shape[-2:]))

    return operation


def warp(x: Tensor, come_from: Affine) -> Tensor:
    """Warp pictures [F, 3, H, W] like PIL's transform: bicubic, edges repeated, uncovered pixels grey."""
    a, b, c, d, e, f = come_from
    height, width = x.shape[-2:]
    across = torch.arange(width, device=x.device, dtype=torch.float64) + 0.5
    down = (torch.arange(height, device=x.device, dtype=torch.float64) + 0.5)[:, None]
    columns, rows = a * across + b * down + c, d * across + e * down + f
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    made = torch.zeros_like(x)
    across_taps = _taps(columns, width, x.dtype)
    for row, row_weight in _taps(rows, height, x.dtype):
        for column, weight in across_taps:
            made += x[..., row, column] * (row_weight * weight)
    return torch.where(inside, made, GREY)


def _taps(places: Tensor, size: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return the four pixels [H, W] around each place and their weights: PIL's cubic, whose parameter is -1."""
    first = (places - 0.5).floor()
    t = places - 0.5 - first
    weights = (
        -t + 2 * t**2 - t**3,
        1 - 2 * t**2 + t**3,
        t + t**2 - t**3,
        -(t**2) + t**3,
    )
    pixels = [(first.long() + offset).clamp(0, size - 1) for offset in (-1, 0, 1, 2)]
    return [(pixel, weight.to(dtype)) for pixel, weight in zip(pixels, weights, strict=True)]


def _turn(draw: Draw, height: int, width: int) -> Affine:
    """Turn about the middle, counter-clockwise for a positive sign."""
    angle = math.radians(draw.sign * TURN * draw.strength)
    cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _posterize(kornia: ModuleType, x: Tensor, draw: Draw) -> Tensor:
    reduced: Tensor = kornia.enhance.posterize(x, 4 - int(4 * draw.strength))
    return reduced


def _solarize(kornia: ModuleType, x: Tensor, draw: Draw) -> Tensor:
    inverted: Tensor = kornia.enhance.solarize(x, (256 - int(256 * draw.strength)) / 255)
    return inverted


def _solarize_add(kornia: ModuleType, x: Tensor, draw: Draw) -> Tensor:
    """Lighten dark pixels; kornia's solarize with an addition would also invert the others."""
    del kornia
    return torch.where(x < 128 / 255, x + int(ADDED * draw.strength) / 255, x)


TABLE: Final[dict[str, Operation]] = {
    "auto_contrast": lambda kornia, x, _: kornia.enhance.normalize_min_max(x),
    "equalize": lambda kornia, x, _: kornia.enhance.equalize(x),
    "invert": lambda kornia, x, _: kornia.enhance.invert(x),
    "rotate": _warped(_turn),
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "colour": _enhanced("adjust_saturation_with_gray_subtraction"),
    "contrast": _enhanced("adjust_contrast_with_mean_subtraction"),
    "brightness": _enhanced("adjust_brightness_accumulative"),
    "sharpness": _enhanced("sharpness"),
    "shear_x": _warped(lambda d, *_: (1, -d.sign * SHEAR * d.strength, 0, 0, 1, 0)),
    "shear_y": _warped(lambda d, *_: (1, 0, 0, -d.sign * SHEAR * d.strength, 1, 0)),
    "shift_x": _warped(lambda d, _, width: (1, 0, -d.sign * SHIFT * d.strength * width, 0, 1, 0)),
    "shift_y": _warped(lambda d, height, _: (1, 0, 0, 0, 1, -d.sign * SHIFT * d.strength * height)),
}
"""The operations that can be drawn."""

"""From the stored frames of a video to those of a sample: which of them, and which square of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gare.common.spread import segment_middles, segments, thin
from gare.config.data import DataConfig
from gare.data.order import Sample
from gare.data.shards import Split

VIEW_STREAM: Final = 0x76696577
"""Keeps these draws apart from the others made from the same seed and epoch."""


@dataclass(frozen=True)
class View:
    """What is taken of a stored video: ``data.frames`` of its frames at most, and of each a square of ``size`` pixels.

    Draws are made in training only: ``random`` is None in evaluation, which is the same every time.
    """

    data: DataConfig
    size: int

    def clip(self, split: Split, index: int, random: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Frames [n, size, size, 3] of one video of a split."""
        return np.stack(self.squares(split, index, random))

    def squares(self, split: Split, index: int, random: np.random.Generator | None = None) -> list[NDArray[np.uint8]]:
        """The frames of ``clip`` one by one; raw stored ones are views of the file, not copied yet."""
        pictures = split.pictures(index, self._picks(split.count(index), random))
        height, width = pictures[0].shape[:2]
        if min(height, width) < self.size:
            raise split.damaged(index, f"{width} x {height} pixels, and {self.size} are needed")
        top, left = self._corner(height, width, random)
        return [picture[top : top + self.size, left : left + self.size] for picture in pictures]

    def _picks(self, stored: int, random: np.random.Generator | None) -> list[int]:
        if self.data.sampling == "linspace":
            return thin(stored, self.data.frames)
        if random is None:
            return segment_middles(stored, self.data.frames)
        return [int(random.integers(part.start, part.stop)) for part in segments(stored, self.data.frames)]

    def _corner(self, height: int, width: int, random: np.random.Generator | None) -> tuple[int, int]:
        """Top and left of the square, one for all frames of a clip."""
        free = height - self.size, width - self.size
        if random is None or self.data.crop == "centre":
            return round(free[0] / 2), round(free[1] / 2)
        return int(random.integers(free[0] + 1)), int(random.integers(free[1] + 1))


def draws(seed: int, epoch: int, sample: Sample, stream: int = VIEW_STREAM) -> np.random.Generator:
    """The random numbers of one sample in one epoch: the same for any number of workers, and after a resume."""
    return np.random.default_rng([seed, epoch, *sample, stream])

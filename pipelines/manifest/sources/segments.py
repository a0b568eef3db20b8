"""Cutting files into clips of equal length: a row of the manifest each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gare.common.errors import InputError

SOURCE: Final = "source"
"""Attribute of a clip: what file it is of, so that the clips of one file can be told."""

SHORTEST_STEP_S: Final = 0.1


@dataclass(frozen=True)
class Segments:
    """Clips of ``seconds``, each beginning ``seconds - overlap`` after the one before."""

    seconds: float
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0 <= self.overlap < self.seconds):
            raise InputError("--segment needs a number of seconds, and --overlap one from 0 to less than that.")
        if self.step < SHORTEST_STEP_S:
            raise InputError(f"Clips begin at least {SHORTEST_STEP_S} s apart; give more --segment or less --overlap.")

    @property
    def step(self) -> float:
        """Seconds from the beginning of one clip to that of the next."""
        return self.seconds - self.overlap

    def cut(self, duration_s: float) -> list[tuple[float, float | None]]:
        """Start and end of each clip of a file; the last goes to the end of the file, which None stands for.

        What the last one would add is part of the one before where it is less than half of what each adds.
        """
        more = (duration_s - self.seconds) / self.step
        count = 1 + max(0, math.floor(more + 0.5))
        starts = [round(k * self.step, 6) for k in range(count)]
        return [(start, round(start + self.seconds, 6)) for start in starts[:-1]] + [(starts[-1], None)]


def clip_id(name: str, start_s: float | None, end_s: float | None) -> str:
    """Name a clip of the file or video ``name``, such as ``a@00010.000-00020.000``: by name, clips are in order."""
    return f"{name}@{start_s or 0:09.3f}-{'end' if end_s is None else f'{end_s:09.3f}'}"

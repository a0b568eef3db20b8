"""Learn on every rank at the same step that a node of the run is about to be taken away, as spot machines are."""

from __future__ import annotations

import time

import ray.train
import ray.train.collective

ASK_SECONDS = 2.0
"""Time between two questions, which are collective; Ray itself looks every 5 s."""


class Notice:
    """A question to Ray Train after a step; ``came``: whether the answer was yes.

    Rank 0 decides, by its own clock, how many steps all ranks take before they ask again.
    """

    def __init__(self) -> None:
        self.came = False
        self._left = self._steps = 1
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        """Return whether a node of this run is being drained; call on every rank after each step."""
        self._left -= 1
        if self._left:
            return False
        self.came = ray.train.get_preemption_info() is not None
        now = time.monotonic()
        own = max(1, int(ASK_SECONDS * self._steps / max(now - self._asked, 1e-9)))
        self._left = self._steps = int(ray.train.collective.broadcast_from_rank_zero(min(own, 2 * self._steps)))
        self._asked = now
        return self.came

"""Where the trials of a sweep run, where nodes lie in several zones: each in one, all zones in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class Zones:
    """Hands out the places of trials that run at the same time.

    ``places``: the zone of each; None where there are no zones. Tune does not count the workers that a trial starts,
    and trials that looked for room themselves at the same moment would all find the same. Ray may still place a trial
    elsewhere, when its zone has lost nodes.
    """

    def __init__(self, places: Sequence[str | None]) -> None:
        self._places = Counter(places)
        self._taken: dict[int, str | None] = {}

    @property
    def slots(self) -> int:
        """How many trials fit at the same time."""
        return self._places.total()

    def take(self, trial: int) -> str | None:
        """Give a trial the zone with most places left."""
        left = self._places.copy()
        left.subtract(zone for index, zone in self._taken.items() if index != trial)
        zone = max(sorted(left, key=str), key=lambda one: left[one])
        self._taken[trial] = zone
        return zone

    def give_back(self, trial: int) -> None:
        """Free a trial's place; nothing happens where it has none."""
        self._taken.pop(trial, None)

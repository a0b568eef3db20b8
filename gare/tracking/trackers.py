"""The table of trackers, by the scheme of their addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from gare.common.errors import InputError
from gare.tracking.tracker import Tracker


def _mlflow(uri: str, experiment: str) -> Tracker:
    from gare.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(uri, experiment)


TRACKERS: dict[str, Callable[[str, str], Tracker]] = {"": _mlflow}
"""Scheme of the address (before ``:``) -> function that makes a tracker of address and experiment; ``""``: others."""


@lru_cache
def tracker_at(uri: str, experiment: str) -> Tracker:
    """Return this process's tracker of an experiment; InputError for an address that makes no sense."""
    make = TRACKERS.get(uri.partition(":")[0], TRACKERS[""])
    if not uri:
        raise InputError("The tracker's address is empty.")
    return make(uri, experiment)

"""How metrics, keys and values are written in tables and pages."""

from __future__ import annotations

from typing import Any

DEV = "dev/"
DIRECTIONS = {"t2v": "text-to-video", "v2t": "video-to-text"}
MEASURES = {"MdR": "median rank", "MnR": "mean rank"}


def plain_metric(metric: str) -> str:
    """Say a metric in words: ``dev/t2v/R@1`` is ``text-to-video R@1 on dev (%)``."""
    split, _, rest = metric.partition("/")
    direction, _, measure = rest.partition("/")
    unit = " (%)" if measure.startswith("R@") else ""
    return f"{DIRECTIONS.get(direction, direction)} {MEASURES.get(measure, measure)} on {split}{unit}"


def short_keys(keys: list[str]) -> list[str]:
    """Give each key its shortest ending, of two parts at least, that no other key has."""
    return [_shortest(key, [other for other in keys if other != key]) for key in keys]


def cell(value: Any) -> str:
    """Show a setting's value in a table."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def figure(value: float | None) -> str:
    """Show a metric, or that there is none."""
    return "-" if value is None else f"{value:.2f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """Show an interval; empty where there is none."""
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def duration(seconds: float) -> str:
    """Show a time in the unit a person would choose."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _shortest(key: str, others: list[str]) -> str:
    parts = key.split(".")
    for count in range(2, len(parts)):
        ending = ".".join(parts[-count:])
        if not any(other == ending or other.endswith("." + ending) for other in others):
            return ending
    return key

"""Convert names and values to what MLflow allows."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gare.common.files import canonical_json
from gare.common.records import STRICT
from gare.common.redact import printable, redact

NAME_CHARACTERS = 250
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 8000
NOT_METRICS = frozenset({"step", "total", "time", "history"})
BARE = {"epoch": "progress/epoch", "seconds": "progress/seconds"}
"""Entries of a history whose own names have no group: MLflow's page draws a section for each group."""

Point = tuple[str, float, int, int]
"""A metric's name in MLflow, its value, its time (milliseconds) and its step."""

_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-. :/]")


@dataclass(frozen=True)
class RunHandle:
    """A run's place in a tracker, for other processes: the MLflow store, its experiment and the run's id."""

    __pydantic_config__ = STRICT

    uri: str
    experiment: str
    run_id: str


def metric_name(name: str) -> str:
    """Convert a name for MLflow: ``@`` becomes ``_at_``, any other illegal character ``_x<hex>_``.

    Raises ValueError for a name that is too long or that MLflow could not distinguish as a path (``a//b``, ``../a``,
    empty).
    """
    clean = _ILLEGAL.sub(lambda found: f"_x{ord(found.group()):02x}_", name.replace("@", "_at_"))
    if not clean or len(clean) > NAME_CHARACTERS or any(part in {"", ".", ".."} for part in clean.split("/")):
        raise ValueError(f"{name!r} cannot name a metric.")
    return clean


def tag_value(value: str) -> str:
    """Return a tag as it is stored: printable, without credentials, cut to MLflow's limit."""
    return _kept(value, TAG_CHARACTERS)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table for a run's description (``note_down``), which MLflow shows as Markdown with HTML in it."""

    def shown(cell: object) -> str:
        return html.escape(" ".join(str(cell).split()), quote=False).replace("|", "\\|")

    lines = [map(shown, columns), ["---"] * len(columns), *(map(shown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parameter(value: Any) -> str:
    """Return a setting as it is stored: text or JSON, printable, without credentials, cut to MLflow's limit."""
    return _kept(value if isinstance(value, str) else canonical_json(value), PARAMETER_CHARACTERS)


def _kept(text: str, most: int) -> str:
    text = printable(redact(text))  # databases refuse NUL and halves of surrogate pairs
    return text if len(text) <= most else text[: most - 3] + "..."


def points(values: Mapping[str, float], at_ms: int, step: int) -> Iterator[Point]:
    """Yield metrics as they are stored: infinities become NaN, because MLflow does not keep them."""
    for name, value in values.items():
        yield metric_name(name), float(value) if math.isfinite(value) else math.nan, at_ms, step


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in a history entry, by their MLflow names before ``metric_name``."""
    return {
        BARE.get(name, name): float(value)
        for name, value in row.items()
        if name not in NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }

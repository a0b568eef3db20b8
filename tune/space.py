"""The search space: dotted keys and what each is tried over, checked and drawn before anything starts.

The whole list of trials is known up front: a sweep can be printed, repeated and taken up again by its trials alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gare.common.errors import ConfigError
from gare.common.files import canonical_json, digest_of
from gare.config import Config
from gare.config.tree import check_key, with_overrides

Form = Literal["choice", "grid", "uniform", "loguniform", "int"]
Overrides = dict[str, Any]

LISTS = ("choice", "grid")
RANGES = ("uniform", "loguniform", "int")
FORMS = "{choice: [...]}, {grid: [...]}, {uniform: [a, b]}, {loguniform: [a, b]} or {int: [a, b]}"
FIXED = {
    "runtime": "changes where a run happens, not what it computes",
    "sweep": "describes the sweep itself",
    "protocol": "decides what trials are compared on",
    "prepare": "is settled when the shards are made, and all trials read the same shards",
}
SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True)
class Dimension:
    """One swept key. ``values``: the listed values of choice and grid, else the two inclusive bounds."""

    key: str
    form: Form
    values: tuple[Any, ...]

    def draw(self, random: np.random.Generator) -> Any:
        """One value; numbers to four significant digits, so that a trial can be repeated by hand."""
        if self.form in LISTS:
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values
        if self.form == "int":
            return int(random.integers(low, high, endpoint=True))
        if self.form == "uniform":
            value = float(random.uniform(low, high))
        else:
            value = math.exp(float(random.uniform(math.log(low), math.log(high))))
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)


def parse_space(config: Config) -> list[Dimension]:
    """Read ``sweep.space``, by key.

    Raises ConfigError naming the key when it is no setting that can vary, its form is unknown, or one of its
    values or bounds does not make a valid config.
    """
    if not config.sweep.space:
        raise ConfigError(f"sweep.space is empty; give it a dotted key with one of {FORMS}.")
    dimensions = [_dimension(str(key), config.sweep.space[key]) for key in sorted(config.sweep.space)]
    for dimension in dimensions:
        for value in dimension.values:
            try:
                with_overrides(config, {dimension.key: value})
            except ConfigError as error:
                raise ConfigError(f"sweep.space: {dimension.key} cannot be {value!r}: {error}") from None
    return dimensions


def expand(config: Config) -> list[Overrides]:
    """Draw every trial: ``sweep.trials`` samples, each under every combination of the grids.

    A sample's drawn values are the same over the grid, so that grid points can be compared pair by pair. Each key
    has its own stream from ``sweep.seed``: adding a key leaves the draws of the others as they were. Equal trials
    are kept once. Raises ConfigError when the values of a trial do not fit together.
    """
    dimensions = parse_space(config)
    grids = [d for d in dimensions if d.form == "grid"]
    drawn = [d for d in dimensions if d.form != "grid"]
    streams = [np.random.default_rng([config.sweep.seed, int(digest_of(d.key), 16)]) for d in drawn]
    trials: dict[str, Overrides] = {}
    for _ in range(config.sweep.trials):
        sample = {d.key: d.draw(stream) for d, stream in zip(drawn, streams, strict=True)}
        for point in itertools.product(*(d.values for d in grids)):
            overrides = dict(sorted((sample | {d.key: v for d, v in zip(grids, point, strict=True)}).items()))
            trials.setdefault(canonical_json(overrides), overrides)
    for number, overrides in enumerate(trials.values()):
        try:
            with_overrides(config, overrides)
        except ConfigError as error:
            text = ", ".join(f"{key}={value}" for key, value in overrides.items())
            raise ConfigError(f"sweep.space: trial {number} ({text}) does not fit together: {error}") from None
    return list(trials.values())


def _dimension(key: str, spec: Any) -> Dimension:
    section = key.partition(".")[0]
    if section in FIXED:
        raise ConfigError(f"sweep.space: {key} cannot be swept: {section}.* {FIXED[section]}.")
    try:
        check_key(key)
    except ConfigError as error:
        raise ConfigError(f"sweep.space: {error}") from None
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in (*LISTS, *RANGES):
        raise ConfigError(f"sweep.space: {key} is {spec!r}; write one of {FORMS}.")
    form, values = next(iter(spec.items()))
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ConfigError(f"sweep.space: {key} needs a list after {form}, not {values!r}.")
    if form in RANGES:
        return Dimension(key, form, _bounds(key, form, values))
    if len({canonical_json(value) for value in values}) < len(values):
        raise ConfigError(f"sweep.space: {key} lists a value twice: {list(values)}.")
    return Dimension(key, form, tuple(values))


def _bounds(key: str, form: str, values: Sequence[Any]) -> tuple[Any, Any]:
    kind: Callable[[Any], Any] = int if form == "int" else float
    wanted = int if form == "int" else (int, float)
    numbers = [v for v in values if isinstance(v, wanted) and not isinstance(v, bool) and math.isfinite(v)]
    if len(values) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        what = "whole numbers" if form == "int" else "numbers"
        raise ConfigError(f"sweep.space: {key} needs two {what} [low, high] after {form}, not {list(values)!r}.")
    if form == "loguniform" and numbers[0] <= 0:
        raise ConfigError(f"sweep.space: {key} needs bounds above 0 for loguniform, not {list(values)!r}.")
    return kind(numbers[0]), kind(numbers[1])

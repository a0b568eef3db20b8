"""One swept key: what it is tried over, and how a value is drawn."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gare.common.errors import ConfigError
from gare.common.files import canonical_json, digest_of
from gare.common.records import is_number
from gare.config.tree import check_key

Form = Literal["choice", "grid", "uniform", "loguniform", "int"]

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

    @property
    def points(self) -> float:
        """How many values it has."""
        if self.form in LISTS:
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.form == "int" else math.inf

    def draw(self, random: np.random.Generator) -> Any:
        """One value; numbers to four significant digits, so that a trial can be repeated by hand."""
        if self.form in LISTS:
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values
        if self.form == "int":
            return int(random.integers(low, high, endpoint=True))
        if self.form == "uniform":
            return self.rounded(float(random.uniform(low, high)))
        return self.rounded(math.exp(float(random.uniform(math.log(low), math.log(high)))))

    def rounded(self, value: float) -> float:
        """Keep four significant digits of a number, inside the bounds."""
        low, high = self.values
        return float(min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high))


def stream(seed: int, key: str) -> np.random.Generator:
    """Make the random stream of one key: adding a key leaves the draws of the others as they were."""
    return np.random.default_rng([seed, int(digest_of(key), 16)])


def check_sweepable(key: str, where: str) -> None:
    """Refuse a key that is no setting, naming the nearest one, or that trials cannot differ in."""
    section = key.partition(".")[0]
    if section in FIXED:
        raise ConfigError(f"{where}: {key} cannot be swept: {section}.* {FIXED[section]}.")
    if key == "data.dev_split":
        raise ConfigError(f"{where}: {key} cannot be swept: it {FIXED['protocol']}.")
    try:
        check_key(key)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def parse_dimension(key: str, spec: Any) -> Dimension:
    """Read one entry of ``sweep.space``; ConfigError naming the key for anything else than the five forms."""
    check_sweepable(key, "sweep.space")
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in (*LISTS, *RANGES):
        raise ConfigError(f"sweep.space: {key} is {spec!r}; write one of {FORMS}.{_nearest_form(spec)}")
    form, values = next(iter(spec.items()))
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ConfigError(f"sweep.space: {key} needs a list after {form}, not {values!r}.")
    if form in RANGES:
        return Dimension(key, form, _bounds(key, form, values))
    if len({canonical_json(value) for value in values}) < len(values):
        raise ConfigError(f"sweep.space: {key} lists a value twice: {list(values)}.")
    return Dimension(key, form, tuple(values))


def _nearest_form(spec: Any) -> str:
    names = [str(name) for name in spec] if isinstance(spec, Mapping) else []
    near = difflib.get_close_matches(names[0], (*LISTS, *RANGES), n=1) if len(names) == 1 else []
    return f" Did you mean {near[0]}?" if near else ""


def _bounds(key: str, form: str, values: Sequence[Any]) -> tuple[Any, Any]:
    kind: Callable[[Any], Any] = int if form == "int" else float
    wanted = int if form == "int" else (int, float)
    numbers = [v for v in values if isinstance(v, wanted) and is_number(v, below=1e300)]
    if len(values) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        what = "whole numbers" if form == "int" else "numbers"
        raise ConfigError(f"sweep.space: {key} needs two {what} [low, high] after {form}, not {list(values)!r}.")
    if form == "loguniform" and numbers[0] <= 0:
        raise ConfigError(f"sweep.space: {key} needs bounds above 0 for loguniform, not {list(values)!r}.")
    return kind(numbers[0]), kind(numbers[1])

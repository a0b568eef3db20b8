"""Determine what the trials of a sweep change: check and draw its space, cases and seeds before anything starts.

Without a searcher the whole list of trials is known in advance: its trials alone suffice to print, repeat or continue a
sweep.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gare.common.errors import ConfigError
from gare.common.files import canonical_json, digest_of
from gare.common.records import is_number
from gare.config import Config
from gare.config.tree import check_key, with_overrides
from tune.record import SEED

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
        """Return the number of its values."""
        if self.form in LISTS:
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.form == "int" else math.inf

    def draw(self, random: np.random.Generator) -> Any:
        """Draw a value; numbers have four significant digits, so that you can repeat a trial by hand."""
        if self.form in LISTS:
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values
        if self.form == "int":
            return int(random.integers(low, high, endpoint=True))
        if self.form == "uniform":
            return self.rounded(float(random.uniform(low, high)))
        return self.rounded(math.exp(float(random.uniform(math.log(low), math.log(high)))))

    def rounded(self, value: float) -> float:
        """Round a number to four significant digits, inside the bounds."""
        low, high = self.values
        return float(min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high))


def stream(seed: int, key: str) -> np.random.Generator:
    """Make the random stream of one key: adding a key does not change the draws of the others."""
    return np.random.default_rng([seed, int(digest_of(key), 16)])


def check_sweepable(key: str, where: str) -> None:
    """Refuse a key that is not a setting, naming the nearest one, or in which trials cannot differ."""
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
    """Read one entry of ``sweep.space``; ConfigError naming the key for anything other than the five forms."""
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


Overrides = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """A planned trial: the name of its case, None without cases, and its changes, including any seed."""

    case: str | None
    overrides: Overrides


Add = Callable[[Planned], int]
"""Adds a trial that was just suggested: writes its row into the record, and returns its index there."""
Chosen = Callable[[int], dict[str, Any]]
"""Returns what Tune passes to the trial function for the record's trial of this index."""


def expand(config: Config) -> list[Planned]:
    """Draw every trial; empty with a searcher, which chooses them one by one.

    There are ``sweep.trials`` samples, each with every seed, in every case and under every combination of the grids, in
    this order, so that further samples come last. A sample's drawn values are the same over all of them, so that they
    can be compared pair by pair. Each key has its own stream from ``sweep.seed``: adding a key does not change the
    draws of the others. Equal trials are kept once. Raises ConfigError for invalid settings, as ``parse_space`` and
    ``check_cases`` do, and if the values of a trial do not fit together.
    """
    dimensions = parse_space(config)
    check_cases(config, dimensions)
    if config.sweep.search != "random":
        return []
    trials: dict[str, Planned] = {}
    for overrides, case in _points(config, dimensions):
        planned = Planned(case, dict(sorted(overrides.items())))
        trials.setdefault(canonical_json([case, planned.overrides]), planned)
    for number, planned in enumerate(trials.values()):
        try:
            with_overrides(config, planned.overrides)
        except ConfigError as error:
            text = (f"case {planned.case}; " if planned.case else "") + shown(planned.overrides)
            raise ConfigError(f"sweep.space: trial {number} ({text}) does not fit together: {error}") from None
    return list(trials.values())


def setting(overrides: Overrides) -> Overrides:
    """Remove the seed, which leaves what repeats of a trial have in common."""
    return {key: value for key, value in overrides.items() if key != SEED}


def parse_space(config: Config) -> list[Dimension]:
    """Read ``sweep.space``, by key.

    Raises ConfigError naming the key if it is not a setting that can vary, if its form is unknown or does not go with
    the searcher, or if one of its values or bounds does not make a valid config; with a searcher, whose trials are not
    known in advance, also if two values do not fit together.
    """
    sweep = config.sweep
    searched = sweep.search == "optuna"
    if not sweep.space and (searched or not sweep.cases):
        raise ConfigError(f"sweep.space is empty; give it a dotted key with one of {FORMS}, or name sweep.cases.")
    dimensions = [parse_dimension(str(key), sweep.space[key]) for key in sorted(sweep.space)]
    for dimension in dimensions:
        if searched and dimension.form == "grid":
            raise ConfigError(
                f"sweep.space: {dimension.key} is a grid, whose points are all trained, so it goes with sweep.search: "
                "random; write choice for optuna."
            )
        if dimension.key == SEED and sweep.seeds is not None:
            raise ConfigError(f"{SEED} is in sweep.space and in sweep.seeds; leave it out of one.")
        for value in dimension.values:
            try:
                with_overrides(config, {dimension.key: value})
            except ConfigError as error:
                raise ConfigError(f"sweep.space: {dimension.key} cannot be {value!r}: {error}") from None
    if searched:
        _check_pairs(config, dimensions)
    for seed in sweep.seeds or []:
        with_overrides(config, {SEED: seed})
    return dimensions


def check_cases(config: Config, dimensions: Sequence[Dimension]) -> None:
    """Refuse a case that changes a key that cannot vary or already does, is not valid, or repeats another case."""
    swept = {dimension.key for dimension in dimensions}
    seen: dict[str, str] = {}
    for name, changes in config.sweep.cases.items():
        where = f"sweep.cases: {name}"
        if not name.strip() or not name.isprintable():
            raise ConfigError(f"sweep.cases: {name!r} is not a name for a case; write one line of text.")
        for key in changes:
            check_sweepable(key, where)
            if key in swept:
                raise ConfigError(f"{where} sets {key}, which sweep.space varies; leave it out of one.")
            if key == SEED and config.sweep.seeds is not None:
                raise ConfigError(f"{where} sets {SEED}, which sweep.seeds varies; leave it out of one.")
        try:
            digest = with_overrides(config, changes).digest()
        except ConfigError as error:
            raise ConfigError(f"{where} does not fit: {error}") from None
        if digest in seen:
            raise ConfigError(f"{where} is the same experiment as {seen[digest]}; leave one out.")
        seen[digest] = name


def shown(overrides: Overrides) -> str:
    """Format overrides as you would type them."""
    return ", ".join(f"{key}={value}" for key, value in overrides.items())


def repeated(config: Config) -> int:
    """Count the drawn trials that ``expand`` leaves out because they equal another; 0 with a searcher."""
    if config.sweep.search != "random":
        return 0
    return sum(1 for _ in _points(config, parse_space(config))) - len(expand(config))


def _points(config: Config, dimensions: Sequence[Dimension]) -> Iterator[tuple[Overrides, str | None]]:
    sweep = config.sweep
    grids = [d for d in dimensions if d.form == "grid"]
    streams = {d: stream(sweep.seed, d.key) for d in dimensions if d.form != "grid"}
    seeds: list[Overrides] = [{}] if sweep.seeds is None else [{SEED: seed} for seed in sweep.seeds]
    cases: list[tuple[str | None, Overrides]] = list(sweep.cases.items()) or [(None, {})]
    for _ in range(sweep.trials):
        sample = {d.key: d.draw(random) for d, random in streams.items()}
        for seed, (case, changes) in itertools.product(seeds, cases):
            for point in itertools.product(*(d.values for d in grids)):
                on_grid = {d.key: value for d, value in zip(grids, point, strict=True)}
                yield sample | seed | changes | on_grid, case
        if not streams:
            return


def _check_pairs(config: Config, dimensions: Sequence[Dimension]) -> None:
    for one, other in itertools.combinations(dimensions, 2):
        for a, b in itertools.product(one.values, other.values):
            changes = {one.key: a, other.key: b}
            try:
                with_overrides(config, changes)
            except ConfigError as error:
                raise ConfigError(f"sweep.space: {shown(changes)} do not fit together: {error}") from None

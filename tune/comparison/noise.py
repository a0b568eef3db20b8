"""Find settings that differ by more than seed noise, and describe it without claiming more than the seeds show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gare.common.errors import ConfigError
from tune.comparison.labels import bounds, figure
from tune.comparison.settings import Setting
from tune.comparison.statistics import LEVEL, Difference, common_noise, difference, holm, largest
from tune.record import SEED

LEAST = 3
"""Fewest seeds for any claim: with two, the spread of a metric with discrete steps is often small by chance."""

Verdict = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True)
class Against:
    """A setting compared with its reference.

    ``found``: how much it is better, whatever the metric's direction; None if the seeds are too few. Compared with a
    named reference, its interval is that of this comparison alone; compared with the best setting, all intervals hold
    simultaneously. ``adjusted``: p corrected for the other comparisons. ``verdict``: ``same`` if they cannot be
    distinguished, ``unknown`` if no conclusion is possible; ``says``: the same as a sentence.
    """

    setting: Setting
    reference: Setting
    found: Difference | None
    adjusted: float | None
    verdict: Verdict
    says: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a plain mapping."""
        names = {"setting": self.setting.label, "reference": self.reference.label}
        found = asdict(self.found) if self.found else None
        return names | {"difference": found, "p_adjusted": self.adjusted, "verdict": self.verdict, "says": self.says}


def against_named(
    ranked: Sequence[Setting], reference: Callable[[Setting], Setting | None], sign: float
) -> list[Against]:
    """Compare every setting with its named reference, unless it is one itself; ``sign``: 1 if more is better, else -1.

    The p values are corrected for their number by Holm.
    """
    pairs = [(setting, other) for setting in ranked if (other := reference(setting)) and other is not setting]
    found = [_found(setting, other, sign) for setting, other in pairs]
    tested = [each.p if each and each.n >= LEAST else None for each in found]
    ps = [p for p in tested if p is not None]
    corrected = iter(holm(ps))
    adjusted = [None if p is None else next(corrected) for p in tested]
    among = f"among {len(ps)} comparisons"
    return [_row(pair, each, p, among) for pair, each, p in zip(pairs, found, adjusted, strict=True)]


def against_best(ranked: Sequence[Setting], sign: float) -> list[Against]:
    """Compare every setting with the first, whose rank is partly luck; ``sign``: 1 if more is better, else -1.

    The same scores determine the best setting, so each difference is judged as the largest among all settings with
    enough seeds (``statistics.largest``).
    """
    able = [setting for setting in ranked if not setting.cut and len(setting.scores) >= LEAST]
    noise = common_noise([setting.scores for setting in able], LEAST)
    among = f"against the best of {len(able)} settings"
    rows = []
    for setting in ranked[1:]:
        pair = setting, ranked[0]
        found, adjusted = _found(*pair, sign), None
        if found and found.error and found.n >= LEAST and noise:
            sizes = (found.n, found.n) if found.paired else (len(setting.scores), len(ranked[0].scores))
            interval, adjusted = largest(found, noise, sizes, len(able))
            found = replace(found, interval=interval)
        rows.append(_row(pair, found, adjusted, among))
    return rows


def baseline(settings: Sequence[Setting], name: str | None, space: Sequence[str]) -> tuple[str, list[Setting]] | None:
    """Find the named baseline: a case, or the setting of a trial; by default, the case that changes nothing.

    A case that the space varies has several settings, each a baseline for those with the same values of ``space``.
    Raises ConfigError for a name that is neither.
    """
    if name is None:
        plain = {s.case for s in settings if s.case is not None and not set(s.trials[0].overrides) - {SEED, *space}}
        if len(plain) != 1:
            return None
        name = next(iter(plain)) or ""
    found = [s for s in settings if s.case == name]
    found = found or [s for s in settings if s.label == name or any(trial.name == name for trial in s.trials)]
    if not found:
        known = sorted({s.case or s.label for s in settings})
        raise ConfigError(f"There is no case or trial {name!r} to compare with; there are {', '.join(known[:20])}.")
    return name, found


def matching(found: Sequence[Setting], space: Sequence[str]) -> Callable[[Setting], Setting | None]:
    """Return a function that finds a setting's baseline: that with its values of ``space``, or the only one."""

    def reference(setting: Setting) -> Setting | None:
        if len(found) == 1:
            return found[0]
        return next((b for b in found if all(b.values[key] == setting.values[key] for key in space)), None)

    return reference


def _found(setting: Setting, other: Setting, sign: float) -> Difference | None:
    # A trial that was stopped early has its metric from another epoch.
    if setting.cut or other.cut:
        return None
    left = {seed: sign * score for seed, score in setting.scores.items()}
    return difference(left, {seed: sign * score for seed, score in other.scores.items()})


def _row(pair: tuple[Setting, Setting], found: Difference | None, adjusted: float | None, among: str) -> Against:
    verdict: Verdict = "unknown"
    if found is not None and adjusted is not None:
        verdict = "same" if adjusted >= 1 - LEVEL else "better" if found.mean > 0 else "worse"
    return Against(*pair, found, adjusted, verdict, _says(*pair, found, verdict, among))


def _says(setting: Setting, other: Setting, found: Difference | None, verdict: Verdict, among: str) -> str:
    if found is None:
        return _unknown(setting, other)
    seeds = f"{found.n} seeds" if found.paired else f"unpaired, {found.n} seeds of each at least"
    by = f"{figure(abs(found.mean))}"
    word = "better" if found.mean > 0 else "worse"
    if found.interval is None or found.p is None:
        if not found.mean:
            return f"{setting.label} and {other.label} came out the same with {seeds}."
        return f"{setting.label} is {word} than {other.label} by {by} with each of {seeds}: no spread to judge it by."
    interval = found.interval if found.mean > 0 else (-found.interval[1], -found.interval[0])
    shown = f"{by} ({bounds(interval)}), {seeds}"
    if verdict == "unknown":
        return f"{setting.label} is {word} than {other.label} by {shown}: too few to tell."
    if verdict != "same":
        return f"{setting.label} is {word} than {other.label} by {shown}."
    alone = f": alone it would count, {among} it does not" if found.p < 1 - LEVEL else ""
    return f"{setting.label} and {other.label} cannot be told apart: {word} by {shown}{alone}."


def _unknown(setting: Setting, other: Setting) -> str:
    for each in (setting, other):
        if each.cut:
            return f"{each.label} was stopped early, so {setting.label} and {other.label} are not compared."
    few = setting if len(setting.scores) < 2 else other
    number = "one seed" if len(few.scores) == 1 else "no result"
    return f"{few.label} has {number}: whether it differs from {(other if few is setting else setting).label} is open."

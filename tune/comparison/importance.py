"""Estimate which keys matter: how much worse a forest predicts unseen settings when a key is shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune.comparison.labels import cell, numeric
from tune.comparison.settings import Setting

FEWEST = 8
PER_KEY, AT_LEAST = 10, 20
FOLDS, TREES, SHUFFLES = 5, 100, 20
CASE = "case"


@dataclass(frozen=True)
class KeyImportance:
    """A key's importance.

    ``share``: the part of the variance between settings that involves the key, alone or with others; None below 8
    settings. ``correlation``: Spearman's, of the key with the metric; None for a key that is not numeric.
    """

    key: str
    share: float | None
    correlation: float | None


@dataclass(frozen=True)
class Importance:
    """The keys, the most important first.

    ``explained``: the share of the variance between held-out settings that the forest explains (R2; below 0, it is
    worse than their mean). ``needed``: fewest settings for a reliable result. ``warning``: the reason that it is not
    reliable.
    """

    keys: list[KeyImportance]
    explained: float | None
    settings: int
    needed: int
    warning: str | None


def importance(settings: Sequence[Setting], keys: Sequence[str]) -> Importance | None:
    """Weigh ``keys`` by the settings that have the metric, none of them stopped early; None for no keys.

    A random forest of each setting's mean predicts unseen settings in five folds, unchanged and with a key shuffled.
    Half of the increase in squared error is the key's total effect (Jansen 1999); a joint effect of several keys counts
    for each of them, so the shares may add up to more than ``explained``.
    """
    if not keys:
        return None
    scores = np.array([setting.estimate.mean for setting in settings if setting.estimate])
    columns = [[_value(setting, key) for setting in settings if setting.estimate] for key in keys]
    n, needed = len(scores), max(AT_LEAST, PER_KEY * len(keys))
    correlations = [_correlation(column, scores) for column in columns]
    spread = n > 0 and float(np.ptp(scores)) > 0
    explained, shares = _permuted([_encoded(c) for c in columns], scores) if n >= FEWEST and spread else (None, None)
    rows = [
        KeyImportance(key, shares[place] if shares is not None else None, correlations[place])
        for place, key in enumerate(keys)
    ]
    rows.sort(key=lambda row: (-(row.share or 0.0), -abs(row.correlation or 0.0)))
    return Importance(rows, explained, n, needed, _warning(n, needed, explained, spread=spread))


def _warning(n: int, needed: int, explained: float | None, *, spread: bool) -> str | None:
    have = f"{n} setting{'' if n == 1 else 's'} trained to the end"
    if n < FEWEST:
        return f"{have}: importance cannot be judged from fewer than {FEWEST}, and means little below {needed}."
    if not spread or explained is None:
        return "All settings came out the same, so no key can be more important than another."
    if explained <= 0:
        return (
            "The forest predicts settings it has not seen no better than their mean does: these figures mean nothing, "
            f"with {have}."
        )
    if n < needed:
        return f"{have}: too few for these figures to mean much; {needed} would be needed."
    return None


def _permuted(columns: list[NDArray[np.float64]], scores: NDArray[np.float64]) -> tuple[float, list[float]]:
    """Predict each fifth from the others, unchanged and with each key's columns shuffled."""
    from sklearn.ensemble import RandomForestRegressor  # takes seconds to import

    random = np.random.default_rng(0)
    n, table = len(scores), np.concatenate(columns, axis=1)
    ends = np.cumsum([column.shape[1] for column in columns])
    error, shuffled = 0.0, np.zeros(len(columns))
    for held in np.array_split(random.permutation(n), FOLDS):
        rest = np.setdiff1d(np.arange(n), held)
        forest = RandomForestRegressor(TREES, random_state=0).fit(table[rest], scores[rest])
        error += float(((forest.predict(table[held]) - scores[held]) ** 2).sum())
        for key, end in enumerate(ends):
            span = slice(end - columns[key].shape[1], end)
            # Values of all settings, not only of the held-out ones, replace the key's own.
            trials = np.repeat(table[held][None], SHUFFLES, axis=0)
            trials[:, :, span] = table[random.integers(n, size=(SHUFFLES, len(held)))][:, :, span]
            guesses = forest.predict(trials.reshape(-1, table.shape[1])).reshape(SHUFFLES, len(held))
            shuffled[key] += float(((guesses - scores[held]) ** 2).sum() / SHUFFLES)
    total = float(((scores - scores.mean()) ** 2).sum())
    return 1 - error / total, np.clip((shuffled - error) / (2 * total), 0.0, None).tolist()


def _encoded(values: Sequence[Any]) -> NDArray[np.float64]:
    """Make a column of numbers, or one of zeros and ones for each value: [settings, columns]."""
    if numeric(values):
        return np.array(values, float)[:, None]
    labels = [cell(value) for value in values]
    return np.array([[label == each for each in sorted(set(labels))] for label in labels], float)


def _correlation(values: Sequence[Any], scores: NDArray[np.float64]) -> float | None:
    if len(scores) < 3 or not numeric(values) or not np.ptp(scores) or not np.ptp(np.array(values, float)):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(np.array(values, float), scores).statistic)


def _value(setting: Setting, key: str) -> Any:
    return setting.case if key == CASE else setting.values[key]

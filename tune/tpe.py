"""A space in Optuna's terms, and its TPE with values that can be typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler

from gare.common.files import canonical_json
from tune.dimension import LISTS, Dimension


class RoundedTpe(TPESampler):
    """TPE whose values have four significant digits, as drawn ones do: the study holds what was trained."""

    def __init__(self, dimensions: Mapping[str, Dimension], seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=1, constant_liar=True)
        self._dimensions = dimensions

    def sample_relative(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Round what is sampled together."""
        sampled = super().sample_relative(*args, **kwargs)
        return {key: self._rounded(key, value) for key, value in sampled.items()}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Round what is sampled alone."""
        return self._rounded(param_name, super().sample_independent(study, trial, param_name, param_distribution))

    def _rounded(self, key: str, value: Any) -> Any:
        dimension = self._dimensions[key]
        return dimension.rounded(value) if dimension.form in {"uniform", "loguniform"} else value


def distribution(dimension: Dimension) -> BaseDistribution:
    """Say a dimension in Optuna's terms."""
    if dimension.form in LISTS:
        # As texts: Optuna takes 1, 1.0 and true for the same choice, and no lists.
        return CategoricalDistribution([canonical_json(value) for value in dimension.values])
    low, high = dimension.values
    if dimension.form == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=dimension.form == "loguniform")


def encoded(dimension: Dimension, value: Any) -> Any:
    """Turn a setting's value into that of the distribution."""
    return canonical_json(value) if dimension.form in LISTS else value


def decoded(dimension: Dimension, value: Any) -> Any:
    """Turn a distribution's value into that of the setting."""
    if dimension.form not in LISTS:
        return value
    return next(listed for listed in dimension.values if canonical_json(listed) == value)

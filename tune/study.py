"""Run Optuna through Ray Tune: a study in the sweep's folder that follows the sweep's own record."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search.optuna import OptunaSearch
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gare.common.addresses import sqlite_uri
from gare.common.console import warn
from gare.common.errors import ConfigError, RunError
from gare.common.files import canonical_json, make_folder
from gare.common.redact import first_line
from gare.config import Config
from gare.config.tree import with_overrides
from tune.record import SEED, SweepRecord, Trial
from tune.space import LISTS, Add, Chosen, Dimension, Overrides, Planned, parse_space, setting, stream
from tune.trial import OUTCOME

STUDY_FILE = "search.db"
STUDY_NAME = "sweep"
TRIAL = "gare.trial"
MOST_AT_RANDOM = 10
ATTEMPTS = 50
DAMAGE = (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, ValueError, LookupError, TypeError)
"""Errors of SQLAlchemy and Optuna for a file that is not a study, when it is opened or read."""
STATES = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """A searcher that suggests trials that have not ended, and then those chosen by Optuna's TPE.

    The first third of the trials, at most ten, are the draws of a random search with the same ``sweep.seed``. Each
    later one depends on that seed, its number and the results reported by then, so that only the order in which trials
    end makes two sweeps differ. A trial that was stopped early is reported as pruned. The record is authoritative: the
    study in the sweep's ``folder`` is updated to match it, and new trials are handed to ``add`` before Tune sees them.
    """

    def __init__(self, config: Config, folder: Path, record: SweepRecord, add: Add, chosen: Chosen) -> None:
        self._config, self._record, self._add, self._chosen = config, record, add, chosen
        self._dimensions = parse_space(config)
        self._again = [i for i, trial in enumerate(record.trials) if trial.stage == "search" and not trial.ended]
        self._seeds = {} if config.sweep.seeds is None else {SEED: config.sweep.seeds[0]}
        self._reported: dict[str, set[int]] = {}
        path = make_folder(folder) / STUDY_FILE
        with _quiet():
            try:
                self._open(path)
            except DAMAGE as error:
                _set_aside(path, error)
                self._open(path)

    def _open(self, path: Path) -> None:
        """Open the study in a file, made if missing, and update it from the record."""
        super().__init__(
            space={dimension.key: distribution(dimension) for dimension in self._dimensions},
            metric=self._config.sweep.metric,
            mode=self._config.sweep.mode,
            study_name=STUDY_NAME,
            storage=optuna.storages.RDBStorage(sqlite_uri(path)),
            sampler=self._tpe(0),
        )
        self._catch_up()

    @property
    def remaining(self) -> int:
        """Return Tune's ``num_samples``: the rows that have not ended, and those still to be drawn."""
        wanted = min(self._config.sweep.trials, self._points())
        return len(self._again) + max(0, int(wanted) - len(_searched(self._record)))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next trial's config for Tune; ``FINISHED`` if there is none."""
        with _quiet():
            if self._again:
                index = self._again.pop(0)
                row = self._record.trials[index]
                asked = self._ask(len(_searched(self._record)), self._encoded(row.overrides))
            elif len(_searched(self._record)) >= self._config.sweep.trials:
                return str(self.FINISHED)
            else:
                found = self._new()
                if found is None:
                    return str(self.FINISHED)
                asked, overrides = found
                index = self._add(Planned(None, overrides))
            asked.set_user_attr(TRIAL, self._record.trials[index].name)
        self._ot_trials[trial_id] = asked
        return self._chosen(index)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Report an epoch's metric to the study, which compares stopped trials by it."""
        value, epoch = result.get(self._config.sweep.metric), result.get("epoch")
        steps = self._reported.setdefault(trial_id, set())
        if _outcome(result) is None and _finite(value) and isinstance(epoch, int) and epoch not in steps:
            steps.add(epoch)
            self._ot_trials[trial_id].report(value, epoch)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:  # noqa: FBT001, FBT002
        """Report to the study how a trial ended."""
        asked = self._ot_trials.pop(trial_id, None)
        if asked is None:
            return
        outcome = "failed" if error or not result else _outcome(result) or "stopped"
        value = (result or {}).get(self._config.sweep.metric)
        if outcome == "done" and not _finite(value):
            outcome = "failed"
        with _quiet():
            self._ot_study.tell(asked, value if outcome == "done" else None, state=STATES[outcome])

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the sweep's record and the study's own storage hold everything, and nothing is pickled."""

    def _new(self) -> tuple[optuna.Trial, Overrides] | None:
        """Ask for a new trial that is valid and unlike all before; None if none exists or none was found."""
        rows = _searched(self._record)
        seen = {canonical_json(setting(row.overrides)) for row in rows}
        if len(seen) >= self._points():
            return None
        for attempt in range(ATTEMPTS):
            asked = self._ask(len(rows) + attempt * self._config.sweep.trials, self._first_draw(len(rows), attempt))
            drawn = {key: decoded(d, asked.params[key]) for key, d in self._by_key().items()}
            overrides = dict(sorted((drawn | self._seeds).items()))
            if canonical_json(setting(overrides)) not in seen and self._fits(overrides):
                return asked, overrides
            self._ot_study.tell(asked, state=TrialState.FAIL)
        return None

    def _points(self) -> float:
        """Return the number of different trials that are possible."""
        return math.prod(dimension.points for dimension in self._dimensions)

    def _first_draw(self, number: int, attempt: int) -> dict[str, Any] | None:
        """Return a random search's draw for this trial, while the study knows too little to choose."""
        if attempt or number >= max(1, min(MOST_AT_RANDOM, self._config.sweep.trials // 3)):
            return None
        drawn = {}
        for dimension in self._dimensions:
            random = stream(self._config.sweep.seed, dimension.key)
            drawn[dimension.key] = [dimension.draw(random) for _ in range(number + 1)][-1]
        return self._encoded(drawn)

    def _ask(self, number: int, params: Mapping[str, Any] | None) -> optuna.Trial:
        if params is not None:
            self._ot_study.enqueue_trial(dict(params))
        self._ot_study.sampler = self._tpe(number)
        asked: optuna.Trial = self._ot_study.ask(fixed_distributions=self._space)
        return asked

    def _tpe(self, number: int) -> RoundedTpe:
        seed = int(np.random.SeedSequence([self._config.sweep.seed, number]).generate_state(1)[0])
        return RoundedTpe(self._by_key(), seed)

    def _by_key(self) -> dict[str, Dimension]:
        return {dimension.key: dimension for dimension in self._dimensions}

    def _encoded(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        return {d.key: encoded(d, overrides[d.key]) for d in self._dimensions}

    def _fits(self, overrides: Overrides) -> bool:
        try:
            with_overrides(self._config, overrides)
        except ConfigError:
            return False
        return True

    def _catch_up(self) -> None:
        """Update the study from the record: report what ended, and leave nothing running."""
        study = self._ot_study
        while any(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            study.ask()
        rows = {row.name: row for row in _searched(self._record)}
        told: dict[str, TrialState] = {}
        for trial in study.get_trials():
            row = rows.get(trial.user_attrs.get(TRIAL, ""))
            state = trial.state
            if state == TrialState.RUNNING:
                state, value = self._verdict(row)
                study.tell(trial.number, value if state == TrialState.COMPLETE else None, state=state)
            if row is not None:
                told[row.name] = state
        for row in rows.values():
            if row.ended and told.get(row.name) != self._verdict(row)[0]:
                study.add_trial(self._as_told(row))

    def _verdict(self, row: Trial | None) -> tuple[TrialState, float | None]:
        """Return a row's state for the study, and its metric; a trial without an end or a metric counts as failed."""
        value = row.metrics.get(self._config.sweep.metric) if row is not None else None
        if row is None or not row.ended or not _finite(value):
            return TrialState.FAIL, None
        return STATES[row.status], value

    def _as_told(self, row: Trial) -> FrozenTrial:
        """Make the study's trial for a row that ended and that the study does not have."""
        state, value = self._verdict(row)
        return create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            intermediate_values={max(1, row.epochs): value} if state == TrialState.PRUNED and value else None,
            params=self._encoded(row.overrides),
            distributions=self._space,
            user_attrs={TRIAL: row.name},
        )


def _set_aside(path: Path, error: Exception) -> None:
    """Rename a damaged study, since the record holds all its content; RunError if the disk or a lock fails."""
    if isinstance(error, OperationalError) or isinstance(error.__cause__, OperationalError):
        raise RunError(f"Cannot use {path}: {first_line(error.__cause__ or error)}.") from None
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    warn(f"{path} cannot be read, so it is now {aside.name}, and made again from the record: {first_line(error)}.")


def _searched(record: SweepRecord) -> list[Trial]:
    return [trial for trial in record.trials if trial.stage == "search"]


def _outcome(result: Mapping[str, Any]) -> str | None:
    """Return how a trial reports that it ended; None for an epoch's report. Tune flattens mappings in results."""
    nested = result.get(OUTCOME)
    status = nested.get("status") if isinstance(nested, Mapping) else result.get(f"{OUTCOME}/status")
    return None if status is None else str(status)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log lines and its warnings about new features."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class RoundedTpe(TPESampler):
    """A TPE whose values have four significant digits, like drawn ones: the study holds what was trained."""

    def __init__(self, dimensions: Mapping[str, Dimension], seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=1, constant_liar=True)
        self._dimensions = dimensions

    def sample_relative(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Round jointly sampled values."""
        sampled = super().sample_relative(*args, **kwargs)
        return {key: self._rounded(key, value) for key, value in sampled.items()}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Round an independently sampled value."""
        return self._rounded(param_name, super().sample_independent(study, trial, param_name, param_distribution))

    def _rounded(self, key: str, value: Any) -> Any:
        dimension = self._dimensions[key]
        return dimension.rounded(value) if dimension.form in {"uniform", "loguniform"} else value


def distribution(dimension: Dimension) -> BaseDistribution:
    """Convert a dimension to Optuna's distribution."""
    if dimension.form in LISTS:
        # As texts: Optuna treats 1, 1.0 and true as the same choice, and does not accept lists.
        return CategoricalDistribution([canonical_json(value) for value in dimension.values])
    low, high = dimension.values
    if dimension.form == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=dimension.form == "loguniform")


def encoded(dimension: Dimension, value: Any) -> Any:
    """Convert a setting's value to the distribution's."""
    return canonical_json(value) if dimension.form in LISTS else value


def decoded(dimension: Dimension, value: Any) -> Any:
    """Convert a distribution's value to the setting's."""
    if dimension.form not in LISTS:
        return value
    return next(listed for listed in dimension.values if canonical_json(listed) == value)

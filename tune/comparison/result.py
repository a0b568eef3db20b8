"""The result of comparing a sweep's trials, as plain values for the table, the page and the JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gare.common.page import count
from gare.config import Config
from tune.comparison.importance import CASE, Importance, importance
from tune.comparison.labels import bounds, cell, figure, short_keys
from tune.comparison.noise import LEAST, Against, against_best, against_named, baseline, matching
from tune.comparison.settings import Curve, Setting, group, rank, read_curves, swept_keys, varying
from tune.comparison.statistics import Noise, pooled
from tune.record import SweepRecord, Trial


@dataclass(frozen=True)
class Cost:
    """The time used, in seconds summed over trials.

    ``train_s``: training alone, of the trials that recorded it, and ``wall_s``: the wall time of those. ``overhead``:
    of the whole sweep (``SweepRecord.overhead``). None if nothing was recorded.
    """

    seconds: float
    wall_s: float
    train_s: float | None
    overhead: float | None

    @property
    def idle(self) -> float | None:
        """Return the share of the trials' wall time that is not training."""
        return 1 - self.train_s / self.wall_s if self.train_s and self.wall_s else None


@dataclass(frozen=True)
class Comparison:
    """A sweep's settings, best first.

    ``keys``: those that tables show. ``ranked``: settings with the metric; ``unranked``: those without a trial that
    ended well. ``against``: each compared with ``reference``: the baseline's name, or None for the best one. ``test``:
    the sweep's ``protocol.test``. ``files``: the files that were written.
    """

    name: str
    metric: str
    mode: str
    forms: dict[str, str]
    keys: list[str]
    ranked: list[Setting]
    unranked: list[Setting]
    trials: list[Trial]
    reference: str | None
    against: list[Against]
    noise: Noise | None
    importance: Importance | None
    curves: list[Curve]
    cost: Cost
    test: str
    best_config: Path | None = None
    page: Path | None = None
    data: Path | None = None

    @property
    def sign(self) -> float:
        """Return 1 if more of the metric is better, else -1."""
        return 1.0 if self.mode == "max" else -1.0

    @property
    def best(self) -> Trial | None:
        """Return the best trial of the best setting: use its checkpoint."""
        if not self.ranked:
            return None
        able = [t for t in self.ranked[0].trials if t.settled and self.metric in t.metrics]
        return max(able, key=lambda trial: self.sign * trial.metrics[self.metric])

    @property
    def files(self) -> list[Path]:
        """List the files that were written."""
        return [path for path in (self.best_config, self.page, self.data) if path is not None]

    @property
    def failed(self) -> list[Trial]:
        """List the trials that failed."""
        return [trial for trial in self.trials if trial.status == "failed"]

    @property
    def counts(self) -> Counter[str]:
        """Count the trials by status."""
        return Counter(trial.status for trial in self.trials)

    def cautions(self) -> list[str]:
        """Return cautions to read before the figures."""
        counts, says = self.counts, []
        if self.test == "used":
            says.append(
                "The trials were free to train on the test split or to choose their checkpoints by it (protocol.test "
                "is used): nothing here says how they do on new videos."
            )
        if waiting := counts["pending"] + counts["running"]:
            still = "has" if waiting == 1 else "have"
            says.append(
                f"{waiting} of {count(len(self.trials), 'trial')} {still} not ended: this is how it stands so far."
            )
        if counts["failed"]:
            says.append(
                f"{count(counts['failed'], 'trial')} failed and count nowhere: their settings are means of the seeds "
                "left."
            )
        most = max((len(setting.scores) for setting in self.ranked), default=0)
        if len(self.ranked) > 1 and most < LEAST:
            says.append(
                f"No setting has more than {count(most, 'seed')}, so nothing tells a difference between settings from "
                f"seed noise; list at least {LEAST} in sweep.seeds."
            )
        if counts["stopped"]:
            says.append(
                f"{count(counts['stopped'], 'trial')} stopped early: {'its' if counts['stopped'] == 1 else 'their'} "
                "metric is the best until then, and takes no part in intervals, comparisons and importance."
            )
        if any(setting.confirmed for setting in self.ranked):
            says.append(
                "The confirmed settings were chosen for their first seed, which therefore flatters them; the ranking "
                "also gives their mean without it. They rank before the settings of the search, which have "
                "that seed alone."
            )
        return says

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Format the columns and rows of the ranking as text; settings without a rank come last."""
        columns = ["rank", "setting", self.metric, "95 % interval", "seeds", *short_keys(self.keys)]
        columns += ["epochs", "seconds", "status"]
        rows = [self._row(str(number), setting) for number, setting in enumerate(self.ranked, 1)]
        return columns, rows + [self._row("", setting) for setting in self.unranked]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a plain mapping, without the learning curves."""
        numbered = [*enumerate(self.ranked, 1), *((None, setting) for setting in self.unranked)]
        return {
            "sweep": self.name,
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best.name if self.best else None,
            "best_setting": self.ranked[0].label if self.ranked else None,
            "best_config": str(self.best_config) if self.best_config else None,
            "page": str(self.page) if self.page else None,
            "data": str(self.data) if self.data else None,
            "protocol_test": self.test,
            "reference": self.reference,
            "correction": "studentised range" if self.reference is None else "Holm",
            "settings": [self._setting(number, setting) for number, setting in numbered],
            "differences": [each.as_json() for each in self.against],
            "seed_noise": asdict(self.noise) if self.noise else None,
            "importance": asdict(self.importance) if self.importance else None,
            "cost": asdict(self.cost) | {"idle": self.cost.idle},
            "trials": [_trial(number, trial) for number, setting in numbered for trial in setting.trials],
        }

    def _row(self, number: str, setting: Setting) -> list[str]:
        mean = setting.estimate.mean if setting.estimate else None
        values = [cell(setting.values[key]) for key in self.keys]
        seeds = str(len(setting.scores) or "-")
        row = [number, setting.label, figure(mean), bounds(setting.interval) or "-", seeds, *values]
        return [*row, setting.epochs, f"{setting.seconds:.1f}", setting.status]

    def _setting(self, number: int | None, setting: Setting) -> dict[str, Any]:
        found = setting.estimate
        return {
            "rank": number,
            "setting": setting.label,
            "case": setting.case,
            "values": setting.values,
            "mean": found.mean if found else None,
            "interval": list(setting.interval) if setting.interval else None,
            "deviation": found.deviation if found else None,
            "scores": {str(seed): score for seed, score in setting.scores.items()},
            "confirmed": setting.confirmed,
            "mean_without_search": setting.confirmed_mean,
            "seconds": round(setting.seconds, 3),
            "train_s": round(setting.train_s, 3),
            "epochs": setting.epochs,
            "status": setting.status,
            "trials": [trial.name for trial in setting.trials],
        }


def gather(record: SweepRecord, config: Config, wanted: str | None) -> Comparison:
    """Compare a sweep's trials; ``wanted``: the baseline's name, if one is requested.

    Raises ConfigError if there is no such baseline.
    """
    sweep = config.sweep
    sign = 1.0 if sweep.mode == "max" else -1.0
    settings = group(record, config)
    ranked, unranked = rank(settings, sign)
    keys = swept_keys(record, config)
    by_case = any(setting.case is not None for setting in settings)
    # The case already names keys that only cases set.
    keys = [key for key in keys if key in sweep.space] if by_case else keys
    found = baseline(settings, wanted, list(sweep.space))
    weighed = [*varying(ranked, keys), *([CASE] if len({setting.case for setting in ranked}) > 1 else [])]
    return Comparison(
        name=record.name,
        metric=sweep.metric,
        mode=sweep.mode,
        forms={key: next(iter(spec)) for key, spec in sweep.space.items() if isinstance(spec, dict) and spec},
        keys=keys,
        ranked=ranked,
        unranked=unranked,
        trials=list(record.trials),
        reference=found[0] if found else None,
        against=against_named(ranked, matching(found[1], list(sweep.space)), sign)
        if found
        else against_best(ranked, sign),
        noise=pooled([list(setting.scores.values()) for setting in ranked if not setting.cut]),
        # A table of cases has nothing between them to model.
        importance=importance([setting for setting in ranked if not setting.cut], weighed)
        if keys and weighed
        else None,
        curves=read_curves(record.trials, sweep.metric),
        cost=_cost(record),
        test=config.protocol.test,
    )


def _cost(record: SweepRecord) -> Cost:
    timed = [trial for trial in record.trials if trial.train_s > 0]
    return Cost(
        seconds=sum(trial.seconds for trial in record.trials),
        wall_s=sum(trial.seconds for trial in timed),
        train_s=sum(trial.train_s for trial in timed) if timed else None,
        # The time of a running trial counts, but its training time is not known yet.
        overhead=record.overhead() if all(trial.ended for trial in record.trials) else None,
    )


def _trial(number: int | None, trial: Trial) -> dict[str, Any]:
    return {
        "rank": number,
        "trial": trial.name,
        "case": trial.case,
        "stage": trial.stage,
        "status": trial.status,
        "error": trial.error,
        "overrides": trial.overrides,
        "metrics": trial.metrics,
        "seconds": round(trial.seconds, 3),
        "train_s": round(trial.train_s, 3),
        "epochs": trial.epochs,
        "attempts": trial.attempts,
        "directory": trial.directory,
        "checkpoint": trial.best,
        "mlflow_run": trial.run_id,
    }

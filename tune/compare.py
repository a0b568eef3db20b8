"""What a sweep found: its trials ranked, the plot of how each key matters, and the best trial's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError
from gare.common.files import write_text
from gare.config import Config
from gare.config.tree import build, to_yaml, with_overrides
from gare.retrieval.metrics.ranking import HIGHER_IS_BETTER, METRIC_NAMES
from tune.ledger import Ledger, Trial

PLOT_FILE = "sensitivity.png"
BEST_FILE = "best.yaml"
DEV = "dev/"
DIRECTIONS = {"t2v": "text-to-video", "v2t": "video-to-text"}
MEASURES = {"MdR": "median rank", "MnR": "mean rank"}


@dataclass(frozen=True)
class Comparison:
    """A sweep's trials, best first.

    ``ranked``: those with the metric, finished or stopped early; ``unranked``: failed or not yet run. ``plot`` and
    ``best_config``: the files written, None when there is nothing to rank.
    """

    name: str
    metric: str
    mode: str
    keys: list[str]
    ranked: list[Trial]
    unranked: list[Trial]
    plot: Path | None
    best_config: Path | None

    @property
    def best(self) -> Trial | None:
        """The first of the ranking."""
        return self.ranked[0] if self.ranked else None

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Lay out the columns and rows of the ranking as text; trials without a rank come last."""
        columns = ["rank", "trial", self.metric, *short_keys(self.keys), "seconds", "status"]
        rows = [self._row(str(rank), trial) for rank, trial in enumerate(self.ranked, 1)]
        return columns, rows + [self._row("", trial) for trial in self.unranked]

    def as_json(self) -> dict[str, Any]:
        """Give the comparison as a plain mapping."""
        trials = [
            {
                "rank": rank,
                "trial": trial.name,
                "status": trial.status,
                "error": trial.error,
                "overrides": trial.overrides,
                "metrics": trial.metrics,
                "seconds": round(trial.seconds, 3),
                "directory": trial.directory,
                "checkpoint": trial.best,
                "mlflow_run": trial.run_id,
            }
            for rank, trial in [*enumerate(self.ranked, 1), *((None, trial) for trial in self.unranked)]
        ]
        return {
            "sweep": self.name,
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best.name if self.best else None,
            "plot": str(self.plot) if self.plot else None,
            "best_config": str(self.best_config) if self.best_config else None,
            "trials": trials,
        }

    def _row(self, rank: str, trial: Trial) -> list[str]:
        value = f"{trial.metrics[self.metric]:.2f}" if self.metric in trial.metrics else "-"
        settings = [cell(trial.overrides[key]) for key in self.keys]
        return [rank, trial.name, value, *settings, f"{trial.seconds:.1f}", trial.status]


def compare(folder: Path, out: Path | None = None) -> Comparison:
    """Rank the trials of a sweep's folder and write ``sensitivity.png`` and ``best.yaml`` to ``out``, else there.

    Raises InputError when the folder holds no sweep.
    """
    from tune.plot import write_plot

    ledger = Ledger.read(folder)
    config = ledger.settings()
    ranked, unranked = rank(ledger, config)
    out = out or folder
    plot = best_config = None
    if ranked:
        best_config, plot = out / BEST_FILE, out / PLOT_FILE
        write_text(best_config, to_yaml(best_settings(config, ranked[0])))
        write_plot(plot, config, ledger.name, ranked)
    return Comparison(
        name=ledger.name,
        metric=config.sweep.metric,
        mode=config.sweep.mode,
        keys=sorted(config.sweep.space),
        ranked=ranked,
        unranked=unranked,
        plot=plot,
        best_config=best_config,
    )


def rank(ledger: Ledger, config: Config) -> tuple[list[Trial], list[Trial]]:
    """Split the trials into those ranked by ``sweep.metric``, best first and ties in order, and the others."""
    metric, sign = config.sweep.metric, -1.0 if config.sweep.mode == "max" else 1.0
    able = [trial for trial in ledger.trials if trial.status in {"done", "stopped"} and metric in trial.metrics]
    others = [trial for trial in ledger.trials if trial not in able]
    return sorted(able, key=lambda trial: sign * trial.metrics[metric]), others


def best_settings(config: Config, trial: Trial) -> Config:
    """Make the trial an experiment of its own: the sweep around it and its name are left out."""
    values = with_overrides(config, trial.overrides).model_dump(mode="json")
    del values["sweep"]
    values["runtime"]["name"] = None
    return build(values)


def check_metric(config: Config) -> None:
    """Refuse a metric no trial reports, and a mode that would pick the worst; ConfigError."""
    if config.protocol.dev == "none":
        raise ConfigError("protocol.dev is none, but a sweep compares its trials on dev; set protocol.dev: held_out.")
    metric, mode = config.sweep.metric, config.sweep.mode
    name = metric.removeprefix(DEV)
    if not metric.startswith(DEV) or name not in METRIC_NAMES:
        known = ", ".join(DEV + known for known in METRIC_NAMES)
        raise ConfigError(f"sweep.metric is {metric!r}; trials report {known}.")
    right = "max" if name in HIGHER_IS_BETTER else "min"
    if mode != right:
        better = "higher" if right == "max" else "lower"
        raise ConfigError(f"sweep.mode is {mode}, but {metric} is better when it is {better}; set sweep.mode: {right}.")


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


def _shortest(key: str, others: list[str]) -> str:
    parts = key.split(".")
    for count in range(2, len(parts)):
        ending = ".".join(parts[-count:])
        if not any(other == ending or other.endswith("." + ending) for other in others):
            return ending
    return key

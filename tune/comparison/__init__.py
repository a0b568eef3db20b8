"""Compare a sweep's settings: rank them, judge them by their seeds, write the page and the best one's file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from gare.common.errors import ConfigError
from gare.common.files import staged_files, write_json, write_text
from gare.common.occupied import refuse_occupied
from gare.config import Config
from gare.config.tree import build, to_yaml, with_overrides
from gare.evaluation.metrics.ranking import HIGHER_IS_BETTER, METRIC_NAMES
from tune.comparison.labels import DEV, cell, plain_metric, short_keys
from tune.comparison.result import Comparison, gather
from tune.record import SweepRecord, Trial

PAGE_FILE = "comparison.html"
DATA_FILE = "comparison.json"
BEST_FILE = "best.yaml"

__all__ = ["Comparison", "best_settings", "cell", "check_metric", "compare", "plain_metric", "short_keys"]


def compare(folder: Path, out: Path | None = None, baseline: str | None = None) -> Comparison:
    """Rank the settings of a sweep's folder; write ``comparison.html``, ``comparison.json`` and ``best.yaml``.

    They are written to ``out``, else to the sweep's folder; ``best.yaml`` only if there is something to rank. You can
    also compare a sweep that is still running. ``baseline``: the case or trial that all others are compared with; by
    default the case that changes nothing, else the best setting. Raises InputError if the folder holds no sweep, and
    ConfigError if there is no such baseline.
    """
    from tune.comparison.page import render

    if out is not None:
        refuse_occupied(out, "a sweep")
    record = SweepRecord.read(folder)
    config = record.settings()
    found = gather(record, config, baseline)
    out = out or folder
    best_config = out / BEST_FILE if found.best is not None else None
    found = replace(found, best_config=best_config, page=out / PAGE_FILE, data=out / DATA_FILE)
    with staged_files(out, [BEST_FILE, DATA_FILE, PAGE_FILE]) as staged:
        if found.best is not None:
            write_text(staged / BEST_FILE, to_yaml(best_settings(config, found.best)))
        write_json(staged / DATA_FILE, found.as_json() | {"curves": [asdict(curve) for curve in found.curves]})
        write_text(staged / PAGE_FILE, render(found))
    return found


def best_settings(config: Config, trial: Trial) -> Config:
    """Turn the trial into an experiment of its own, without the sweep around it and its name."""
    values = with_overrides(config, trial.overrides).model_dump(mode="json")
    del values["sweep"]
    values["runtime"]["name"] = None
    return build(values)


def check_metric(config: Config) -> None:
    """Refuse a metric that no trial reports, and a mode that would pick the worst; ConfigError."""
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

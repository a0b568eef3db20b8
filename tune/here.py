"""Train a sweep's trials in this process, one after the other, without Ray's workers (``gare sweep --local``)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from gare.common.errors import ConfigError
from gare.config import Config
from gare.launch.local import fit_local
from gare.runs.state import RunSummary
from tune.recorder import Recorder
from tune.trial import OUTCOME, run_trial


def check_local(config: Config) -> None:
    """Raise ConfigError for a sweep whose trials cannot be trained one after the other: these choices are Ray's."""
    for name, needed in (("search", "random"), ("scheduler", "none")):
        if getattr(config.sweep, name) != needed:
            raise ConfigError(
                f"sweep.{name} is {getattr(config.sweep, name)}, which needs Ray; leave out --local, or set "
                f"sweep.{name}={needed}."
            )


def train_here(
    config: Config, *, callbacks: Sequence[Any], quiet: bool, stop: threading.Event, **place: str
) -> RunSummary:
    """Train as one rank in this process; ``stop`` and ``place`` belong to Ray's trials."""
    del stop, place

    def report(metrics: dict[str, Any]) -> None:
        for callback in callbacks:
            callback.after_report(None, [metrics], None)

    return fit_local(config, quiet=quiet, report=report)


def launch_here(settings: dict[str, Any], todo: Sequence[int], recorder: Recorder) -> None:
    """Train the numbered trials in order; ``settings``: those of the sweep."""
    for index in todo:
        chosen = recorder.chosen(index)
        recorder.trial_started(index)

        def tell(row: dict[str, Any], index: int = index) -> None:
            if OUTCOME in row:
                recorder.trial_ended(index, row[OUTCOME])
            else:
                recorder.epoch(index, row)
                recorder.look()

        run_trial(chosen, settings, train_here, tell, threading.Event())

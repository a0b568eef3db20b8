"""What happens inside one trial: a training run, and one last report of how it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray import tune as ray_tune

from gare.config import Config
from gare.config.tree import build
from gare.tracking import RunHandle
from gare.training.run import RunSummary

OUTCOME = "outcome"


class Trainer(Protocol):
    """What trains a trial: ``gare.training.ray_train.fit``, or a stand-in for it."""

    def __call__(
        self, config: Config, *, tracking: RunHandle | None, callbacks: Sequence[Any], quiet: bool
    ) -> RunSummary:
        """Train to the end and say what the run came to."""


@dataclass(frozen=True)
class Job:
    """All a trial needs, sent to it. ``report_epochs``: tell Tune after every epoch, for a scheduler that stops."""

    config: dict[str, Any]
    metric: str
    tracking: RunHandle | None
    report_epochs: bool


def train_with_ray(config: Config, *, tracking: RunHandle | None, callbacks: Sequence[Any], quiet: bool) -> RunSummary:
    """Train with Ray Train workers."""
    from gare.training.ray_train import fit

    return fit(config, tracking=tracking, callbacks=callbacks, quiet=quiet)


def run_trial(chosen: dict[str, Any], jobs: Sequence[Job], trainer: Trainer) -> None:
    """Train job ``chosen["trial"]`` and report its outcome to Tune.

    A failure is an outcome too: an exception would reach the driver as pages of Ray's traceback.
    """
    job = jobs[chosen["trial"]]
    config = build(job.config)
    outcome: dict[str, Any]
    try:
        callbacks = [_epoch_reports(config)] if job.report_epochs else []
        summary = trainer(config, tracking=job.tracking, callbacks=callbacks, quiet=True)
    except Exception as error:  # noqa: BLE001 - whatever it was, it ends this trial and not the sweep
        first = (str(error).strip() or "no message").splitlines()[0]
        outcome = {"status": "failed", "error": f"{type(error).__name__}: {first}"}
        # NaN is the one value with which asha compares no other trial.
        value = math.nan
    else:
        outcome = {
            "status": "done",
            "metrics": dict(summary.best_metrics),
            "best": summary.best,
            "steps": summary.steps,
        }
        value = summary.best_metrics.get(job.metric, math.nan)
        if not math.isfinite(value):
            outcome |= {"status": "failed", "error": f"The run ended without a finite {job.metric}."}
    ray_tune.report({"epoch": config.train.epochs, job.metric: value, OUTCOME: outcome})


def _epoch_reports(config: Config) -> Any:
    from ray.tune.integration.ray_train import TuneReportCallback

    class EpochReports(TuneReportCallback):  # type: ignore[misc]
        """Tells Tune the metrics of every epoch but the last.

        At the last one asha would stop the trial before its outcome is known.
        """

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            if metrics[0]["epoch"] < config.train.epochs:
                numbers = {name: value for name, value in metrics[0].items() if name != "history"}
                super().after_report(run_context, [numbers], checkpoint)

    return EpochReports()

"""Training in this process, without Ray."""

from __future__ import annotations

from typing import Any

from gare.config import Config
from gare.objective.ranks import ALONE
from gare.tracking import RunHandle, log_report
from gare.training.loop import train
from gare.training.progress import training_view
from gare.training.run import RunSummary, absolute


def fit_local(config: Config, *, tracking: RunHandle | None = None, quiet: bool = False) -> RunSummary:
    """Run the training loop here, as one rank; the losses are those of one Ray Train worker."""
    config = absolute(config)

    def report(metrics: dict[str, Any]) -> None:
        if tracking is not None:
            log_report(tracking, metrics)

    with training_view(config, quiet=quiet) as on_row:
        return train(config, ALONE, report, on_row)

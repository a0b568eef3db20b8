"""Training in this process, without Ray."""

from __future__ import annotations

from gare.config import Config
from gare.launch.placement import placement_tags
from gare.launch.progress import training_view
from gare.objective.ranks import ALONE
from gare.runs.inputs import choose_device
from gare.runs.run import RunSummary, absolute, run_directory
from gare.tracking import note_down, syncing
from gare.tracking.system import watching
from gare.training.loop import train


def fit_local(config: Config, *, quiet: bool = False) -> RunSummary:
    """Run the training loop here, as one rank; the losses are those of one Ray Train worker."""
    config = absolute(config)
    folder = run_directory(config)
    with (
        training_view(config, quiet=quiet) as on_row,
        syncing(folder, wanted=config.runtime.tracking) as tracked,
        watching(folder, 0, config.runtime.system_metrics if tracked else None),
    ):
        note_down(folder, tags=placement_tags(1, choose_device(config.runtime.device).type))
        return train(config, ALONE, lambda _: None, on_row)

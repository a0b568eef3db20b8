"""Training in this process, without Ray."""

from __future__ import annotations

from gare.config import Config
from gare.launch.placement import placement_tags
from gare.launch.progress import training_view
from gare.objective.ranks import ALONE
from gare.runs.inputs import choose_device
from gare.runs.run import Run
from gare.runs.state import RunSummary
from gare.tracking import note_down, syncing
from gare.tracking.system import watching
from gare.training.loop import train


def fit_local(run: Run | Config, *, quiet: bool = False) -> RunSummary:
    """Run the training loop here, as one rank; the losses are those of one Ray Train worker.

    ``run``: an opened run, or settings, whose run is opened here. ``quiet``: show no progress.
    """
    run = Run.of(run)
    runtime, folder = run.config.runtime, run.folder
    device = choose_device(runtime.device)
    _ = run.data  # what cannot be trained on leaves no folder
    with (
        training_view(run.config.run_name(), run.take_up().epochs(run.config), quiet=quiet) as on_row,
        syncing(folder, wanted=runtime.tracking) as tracked,
        watching(folder, 0, runtime.system_metrics if tracked else None),
    ):
        note_down(folder, tags=placement_tags(1, device.type))
        return train(run, ALONE, lambda _: None, on_row)

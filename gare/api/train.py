"""``gare.train``: train on shards, on Ray or in this process."""

from __future__ import annotations

from typing import Any

from gare.api import public
from gare.api.settings import Place, resolve, whole
from gare.common.console import note
from gare.config.tree import Overrides, Source
from gare.jobs.places import setting_places
from gare.launch.tracked import tracked
from gare.runs.run import Run
from gare.runs.state import RunSummary


@public
def train(
    config: Source = None,
    *,
    shards: Place | None = None,
    local: bool = False,
    extend: int | None = None,
    set: Overrides = (),
    **settings: Any,
) -> RunSummary:
    """Train a model on shards, evaluating on the dev split each epoch.

    The run's folder, ``runtime.output`` / its name, holds the settings, the history and the best and last checkpoints.
    After an interruption (Ctrl-C raises KeyboardInterrupt) the same call continues; a finished run is left as it is.

    Args:
        config: settings: a YAML file, a dict by section or dotted key, or a ``Config``.
        shards: folder or address of ``gare.prepare``; it overrides ``runtime.shards``.
        local: train in this process, without Ray; the losses are the same. Otherwise the call joins the Ray that you
            have initialised or that RAY_ADDRESS names, or starts one and stops it again.
        extend: train a finished run for this many more epochs.
        set: overrides by dotted key, such as ``{"train.epochs": 3}``, or ``key=value`` texts.
        **settings: overrides by section, such as ``train={"epochs": 3}``.

    Returns:
        The run's folder, its best checkpoint and its dev metrics.

    Raises:
        ConfigError: a setting cannot be used, or the run's folder holds another experiment.
        InputError: the shards or the CLIP cannot be used.
        RunError: training stopped, or another process trains this run.
    """
    added = None if extend is None else whole("extend", extend, 1, 10**6)
    own = resolve(config, set, settings, shards=shards)
    # Open the run before Ray starts, so that mistakes fail at once; with Ray this process needs no copy of the shards.
    run = Run.open(own, frames=local)
    for remark in run.data.remarks(run.config):
        note(remark)
    if added:
        note(run.extend(added))
    if local:
        from gare.launch.local import fit_local

        return tracked(run, fit_local)
    from gare.launch.ray_session import ray_session

    with ray_session(own.runtime, places=setting_places(run.config)):
        from gare.launch.ray_train import fit

        return tracked(run, fit)

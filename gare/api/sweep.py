"""``gare.sweep``: try many settings around one experiment, with Ray Tune."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from gare.api import public
from gare.api.compare import find_sweep
from gare.api.settings import Place, place_text, resolve, whole
from gare.common.console import note
from gare.common.errors import ConfigError
from gare.config import Config
from gare.config.tree import Overrides, Source, parse_overrides, with_overrides
from gare.jobs.places import setting_places
from gare.launch.ray_session import ray_session
from gare.runs.inputs import open_shards
from gare.runs.layout import absolute, run_directory
from tune.comparison import cell, check_metric, short_keys
from tune.record import SWEEP_FILE, SweepRecord, Trial
from tune.space import Planned, expand

if TYPE_CHECKING:
    from tune.sweep import SweepReport


@public
def sweep(
    config: Source = None,
    *,
    shards: Place | None = None,
    section: Place | None = None,
    resume: Place | None = None,
    extend: int = 0,
    local: bool = False,
    set: Overrides = (),
    **settings: Any,
) -> SweepReport:
    """Train the trials that the section ``sweep`` of the settings describes, and compare them.

    A trial that fails is recorded and the others continue. After an interruption (Ctrl-C raises KeyboardInterrupt) the
    same call, or ``resume``, continues. The call joins the Ray that you have initialised or that RAY_ADDRESS names, or
    starts one and stops it again.

    Args:
        config: settings of a new sweep: a YAML file, a dict by section or dotted key, or a ``Config``.
        shards: folder or address of ``gare.prepare``; it overrides ``runtime.shards``.
        section: YAML file whose section ``sweep`` replaces that of ``config``.
        resume: a sweep's folder, or its name in the folder runs, to continue instead of a new one.
        extend: add this many samples.
        local: train the trials in this process, one after the other, without Ray.
        set: overrides by dotted key, such as ``{"sweep.trials": 16}``, or ``key=value`` texts.
        **settings: overrides by section, such as ``train={"epochs": 3}``.

    Returns:
        The sweep's folder, its record, and the comparison of its settings, best first.

    Raises:
        ConfigError: a setting cannot be used, or the space makes no sense.
        InputError: the shards cannot be used, or there is no such sweep.
        RunError: no trial fits the cluster, all failed, or another process is at work on this sweep.
    """
    extend = whole("extend", extend, 0, 10**6)
    own, trials = open_sweep(config, set, settings, shards=shards, section=section, resume=resume)
    if resume is None and not extend:
        _say_plan(own, trials)
    with nullcontext() if local else ray_session(own.runtime, places=setting_places(absolute(own))):
        from tune.sweep import run_sweep

        progress = partial(_say, own)
        return run_sweep(own, extend=extend, on_progress=progress, local=local)


def open_sweep(
    config: Source,
    *overrides: Overrides,
    shards: Place | None = None,
    section: Place | None = None,
    resume: Place | None = None,
) -> tuple[Config, list[Planned]]:
    """Resolve a sweep's settings and check all that can be checked before Ray starts; return settings and trials."""
    own = resolve_sweep(config, *overrides, shards=shards, section=section, resume=resume)
    if own.runtime.shards is None:
        raise ConfigError("No shards are named; give --shards DIR or set runtime.shards to a folder of gare prepare.")
    check_metric(own)
    trials = expand(own)
    open_shards(absolute(own), frames=False)
    return own, trials


def resolve_sweep(
    config: Source,
    *overrides: Overrides,
    shards: Place | None = None,
    section: Place | None = None,
    resume: Place | None = None,
) -> Config:
    """Resolve the settings of a new sweep, or of one to resume. Raises ConfigError if both or neither is given."""
    if (config is None) == (resume is None):
        raise ConfigError("Name a CONFIG for a new sweep, or give --resume NAME to continue one; one of the two.")
    if resume is None:
        return resolve(config, *overrides, shards=shards, sweep=section)
    if section is not None:
        raise ConfigError("--sweep describes a new sweep, and --resume continues one as it is; leave one out.")
    folder = find_sweep(place_text("resume", resume)).resolve()
    record = SweepRecord.read(folder)
    changes: dict[str, Any] = {}
    for one in overrides:
        changes |= parse_overrides(one)
    if shards is not None:
        changes["runtime.shards"] = place_text("shards", shards)
    own = with_overrides(record.settings(), changes)
    if run_directory(own).resolve() != folder:
        raise ConfigError(
            f"{folder / SWEEP_FILE} belongs to {run_directory(own)}; a sweep's folder may be moved, not renamed."
        )
    ended = sum(trial.settled for trial in record.trials)
    note(f"The sweep {record.name}: {ended} of {len(record.trials)} trials are done.")
    return own


def _say_plan(config: Config, trials: list[Planned]) -> None:
    keys = sorted({key for trial in trials for key in trial.overrides} | {*config.sweep.space})
    short = dict(zip(keys, short_keys(keys), strict=True))
    count = len(trials) or config.sweep.trials
    note(f"{count} trials of {config.train.epochs} epochs over {', '.join(keys)}:")
    if not trials:
        note("  each is chosen by the results of those before")
    for index, trial in enumerate(trials):
        text = "  ".join(f"{short[key]} {cell(value)}" for key, value in trial.overrides.items())
        note(f"  trial-{index:03d}  {trial.case + ': ' if trial.case else ''}{text}")


def _say(config: Config, trial: Trial, done: int, total: int) -> None:
    keys = sorted(trial.overrides)
    text = "  ".join(f"{short} {cell(trial.overrides[key])}" for key, short in zip(keys, short_keys(keys), strict=True))
    metric = config.sweep.metric
    result = trial.error or f"{metric} {trial.metrics.get(metric, float('nan')):.2f}"
    note(f"[{done}/{total}] {trial.name} {trial.status} in {trial.seconds:.0f} s  {text}  {result}")

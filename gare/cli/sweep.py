"""``gare sweep``: many experiments around one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import config_options, gare_command
from gare.cli.compare import find_sweep, print_sweep
from gare.common.console import note
from gare.common.errors import ConfigError

if TYPE_CHECKING:
    from gare.config import Config
    from tune.record import SweepRecord, Trial
    from tune.space import Planned


@gare_command("sweep", short_help="Try many settings around one experiment.")
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@click.option("--resume", metavar="NAME", help="Go on with a sweep by its folder or its name in runs; no CONFIG.")
@click.option("--extend", metavar="N", default=0, type=click.IntRange(min=0), help="Add N samples to a sweep.")
@click.option("--shards", help="Folder or address of gare prepare (runtime.shards).")
@click.option(
    "--sweep",
    "sweep_file",
    metavar="FILE",
    help="File whose sweep section takes the place of CONFIG's (configs/sweeps).",
)
@click.option("--register", "registered", metavar="NAME", help="Register the best trial's model (gare register).")
@click.option("--dry-run", is_flag=True, help="Say what would run, how much at a time and how long; write nothing.")
@config_options
def sweep(
    config_file: Path | None,
    resume: str | None,
    extend: int,
    shards: str | None,
    sweep_file: str | None,
    registered: str | None,
    dry_run: bool,
    overrides: tuple[str, ...],
) -> dict[str, Any]:
    """Train the trials that the sweep section of CONFIG describes, and compare them.

    A sweep that was interrupted goes on with the same command, or with --resume. Its folder, in runtime.output, holds
    a folder per trial, sweep.json, comparison.html and best.yaml, which gare train accepts.

    \b
    Examples:
      gare sweep configs/demo.yaml --shards shards
      gare sweep configs/demo.yaml --shards shards --set sweep.trials=16 --set runtime.name=weights
      gare sweep configs/msrvtt.yaml --sweep configs/sweeps/loss_terms.yaml --shards shards --dry-run
      gare sweep --resume weights --extend 8
    """
    from gare.cli.ray_session import ray_session
    from gare.jobs.places import setting_places
    from gare.runs.inputs import open_shards
    from gare.runs.layout import absolute
    from tune.comparison import check_metric
    from tune.space import expand

    if shards is not None:
        overrides = (*overrides, f"runtime.shards={shards}")
    config = _settings(config_file, resume, sweep_file, overrides)
    if config.runtime.shards is None:
        raise ConfigError("No shards are named; give --shards DIR or set runtime.shards to a folder of gare prepare.")
    check_metric(config)
    trials = expand(config)
    open_shards(absolute(config), frames=False)  # shards that cannot be read are known before Ray starts
    if dry_run:
        from gare.cli.sweep_plan import plan_sweep

        return plan_sweep(config, extend)
    if resume is None and not extend:
        _print_plan(config, trials)

    places = setting_places(absolute(config))
    with ray_session(config.runtime, places=places):
        from tune.sweep import run_sweep

        report = run_sweep(
            config, extend=extend, on_progress=lambda trial, done, total: _progress(config, trial, done, total)
        )
    print_sweep(report.comparison)
    _print_cost(report.record)
    result = report.comparison.as_json() | {"directory": str(report.directory), "mlflow_run": report.record.run_id}
    return result | _register(report.directory, registered)


def _register(folder: Path, name: str | None) -> dict[str, Any]:
    """The best trial's model as the next version of ``name``, for --register."""
    if name is None:
        return {}
    from dataclasses import asdict

    from gare.cli.register import best_run, register_run

    done = register_run(best_run(folder), name)
    note(f"{done.address} is registered.")
    return {"registered": asdict(done)}


def _settings(
    config_file: Path | None, resume: str | None, sweep_file: str | None, overrides: tuple[str, ...]
) -> Config:
    """The settings of a new sweep, or those that one under way was begun with."""
    from gare.config.tree import load_config, parse_override, with_overrides
    from gare.runs.layout import run_directory
    from tune.record import SWEEP_FILE, SweepRecord

    if (config_file is None) == (resume is None):
        raise ConfigError("Name a CONFIG for a new sweep, or give --resume NAME to go on with one; one of the two.")
    if resume is None:
        return load_config(config_file, overrides, sweep_file)
    if sweep_file is not None:
        raise ConfigError("--sweep describes a new sweep, and --resume goes on with one as it is; leave one out.")
    folder = find_sweep(resume).resolve()
    record = SweepRecord.read(folder)
    config = with_overrides(record.settings(), dict(parse_override(override) for override in overrides))
    if run_directory(config).resolve() != folder:
        raise ConfigError(
            f"{folder / SWEEP_FILE} belongs to {run_directory(config)}; a sweep's folder may be moved, not renamed."
        )
    ended = sum(trial.settled for trial in record.trials)
    note(f"The sweep {record.name}: {ended} of {len(record.trials)} trials are done.")
    return config


def _print_plan(config: Config, trials: list[Planned]) -> None:
    from tune.comparison import cell, short_keys

    keys = sorted({key for trial in trials for key in trial.overrides} | set(config.sweep.space))
    short = dict(zip(keys, short_keys(keys), strict=True))
    count = len(trials) or config.sweep.trials
    note(f"{count} trials of {config.train.epochs} epochs over {', '.join(keys)}:")
    if not trials:
        note("  each is chosen by the results of those before")
    for index, trial in enumerate(trials):
        text = "  ".join(f"{short[key]} {cell(value)}" for key, value in trial.overrides.items())
        note(f"  trial-{index:03d}  {trial.case + ': ' if trial.case else ''}{text}")


def _progress(config: Config, trial: Trial, done: int, total: int) -> None:
    from tune.comparison import cell, short_keys

    keys = sorted(trial.overrides)
    text = "  ".join(f"{short} {cell(trial.overrides[key])}" for key, short in zip(keys, short_keys(keys), strict=True))
    metric = config.sweep.metric
    result = trial.error or f"{metric} {trial.metrics.get(metric, float('nan')):.2f}"
    note(f"[{done}/{total}] {trial.name} {trial.status} in {trial.seconds:.0f} s  {text}  {result}")


def _print_cost(record: SweepRecord) -> None:
    overhead = record.overhead()
    if overhead is not None:
        training = sum(trial.train_s for trial in record.trials)
        rest = overhead * training / len(record.trials)
        note(f"{training:.0f} s of training in all; {rest:.1f} s a trial were not training (overhead {overhead:.2f})")

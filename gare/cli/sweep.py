"""``gare sweep`` and ``gare compare``: many experiments around one, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import config_options, gare_command
from gare.common.console import note, output, print_table
from gare.common.errors import ConfigError, InputError

if TYPE_CHECKING:
    from gare.config import Config
    from tune.compare import Comparison
    from tune.ledger import Trial


@gare_command("sweep", short_help="Try many settings around one experiment.")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--shards", help="Folder or address of gare prepare (runtime.shards).")
@config_options
def sweep(config_file: Path, shards: str | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train the trials that the sweep section of CONFIG describes, and compare them.

    A sweep that was interrupted goes on with the same command. Its folder, in runtime.output, holds a folder per
    trial, sweep.json, sensitivity.png and best.yaml, which gare train accepts.

    \b
    Examples:
      gare sweep configs/demo.yaml --shards shards
      gare sweep configs/demo.yaml --shards shards --set sweep.trials=16 --set runtime.name=weights
    """
    from gare.config.tree import load_config
    from tune.compare import check_metric
    from tune.space import expand

    if shards is not None:
        overrides = (*overrides, f"runtime.shards={shards}")
    config = load_config(config_file, overrides)
    if config.runtime.shards is None:
        raise ConfigError("No shards are named; give --shards DIR or set runtime.shards to a folder of gare prepare.")
    check_metric(config)
    trials = expand(config)
    from gare.cli.ray_session import ray_session
    from gare.jobs.places import setting_places
    from gare.training.inputs import open_shards
    from gare.training.run import absolute

    open_shards(absolute(config))  # shards that cannot be read are known before Ray starts
    _print_plan(config, trials)

    places = setting_places(absolute(config))
    with ray_session(config.runtime, dashboard=config.sweep.scheduler == "asha", places=places):
        from tune.sweep import run_sweep

        report = run_sweep(config, on_progress=lambda trial, done, total: _progress(config, trial, done, total))
    _print_comparison(report.comparison)
    return report.comparison.as_json() | {"directory": str(report.directory), "mlflow_run": report.ledger.run_id}


@gare_command("compare", short_help="Rank the trials of a sweep.")
@click.argument("sweep_folder", metavar="SWEEP", type=click.Path())
@click.option("--out", type=click.Path(), help="Folder for sensitivity.png and best.yaml; the sweep's own without it.")
def compare(sweep_folder: str, out: str | None) -> dict[str, Any]:
    """Rank the trials of SWEEP: its folder, or its name in the folder runs.

    \b
    Examples:
      gare compare runs/weights
      gare compare weights --out report
      gare train report/best.yaml
    """
    import tune.compare

    found = tune.compare.compare(_find(sweep_folder), Path(out) if out else None)
    _print_comparison(found)
    return found.as_json()


def _find(sweep_folder: str) -> Path:
    from gare.config import RuntimeConfig

    for folder in (Path(sweep_folder), Path(RuntimeConfig().output) / sweep_folder):
        if folder.is_dir():
            return folder
    raise InputError(f"There is no sweep {sweep_folder}; give the folder of a gare sweep.")


def _print_plan(config: Config, trials: list[dict[str, Any]]) -> None:
    from tune.compare import cell, short_keys

    keys = sorted(config.sweep.space)
    note(f"{len(trials)} trials of {config.train.epochs} epochs over {', '.join(keys)}:")
    for index, trial in enumerate(trials):
        text = "  ".join(f"{short} {cell(trial[key])}" for key, short in zip(keys, short_keys(keys), strict=True))
        note(f"  trial-{index:03d}  {text}")


def _progress(config: Config, trial: Trial, done: int, total: int) -> None:
    from tune.compare import cell, short_keys

    keys = sorted(trial.overrides)
    text = "  ".join(f"{short} {cell(trial.overrides[key])}" for key, short in zip(keys, short_keys(keys), strict=True))
    metric = config.sweep.metric
    result = trial.error or f"{metric} {trial.metrics.get(metric, float('nan')):.2f}"
    note(f"[{done}/{total}] {trial.name} {trial.status} in {trial.seconds:.0f} s  {text}  {result}")


def _print_comparison(comparison: Comparison) -> None:
    columns, rows = comparison.table()
    print_table(f"Sweep {comparison.name}", columns, rows)
    for trial in comparison.unranked:
        if trial.error:
            note(f"{trial.name} failed: {trial.error}")
    for path in (comparison.plot, comparison.best_config):
        if path is not None:
            output().print(str(path), markup=False)

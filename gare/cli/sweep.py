"""``gare sweep``: try many settings around one experiment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, config_options, gare_command
from gare.cli.compare import print_sweep
from gare.common.console import note

if TYPE_CHECKING:
    from tune.record import SweepRecord


@gare_command("sweep", short_help="Try many settings around one experiment.")
@click.argument("config_file", metavar="[CONFIG]", required=False, type=PLACE)
@click.option("--resume", metavar="NAME", help="Continue a sweep, by its folder or its name in runs; no CONFIG.")
@click.option("--extend", metavar="N", default=0, type=click.IntRange(min=0), help="Add N samples to a sweep.")
@click.option("--shards", help="Folder or address of gare prepare (runtime.shards).")
@click.option("--sweep", "section", metavar="FILE", help="File whose section sweep replaces CONFIG's (configs/sweeps).")
@click.option("--register", "registered", metavar="NAME", help="Register the best trial's model (gare register).")
@click.option("--local", is_flag=True, help="Train the trials in this process, one after the other, without Ray.")
@click.option("--dry-run", is_flag=True, help="Say what would run, how much at a time and how long; write nothing.")
@config_options
def sweep(
    config_file: Path | None,
    extend: int,
    registered: str | None,
    local: bool,
    dry_run: bool,
    overrides: tuple[str, ...],
    **options: Any,
) -> dict[str, Any]:
    """Train the trials that the section sweep of CONFIG describes, and compare them.

    If a sweep is interrupted, run the same command again, or use --resume, and it continues. Its folder, in
    runtime.output, holds a folder per trial, sweep.json, comparison.html and best.yaml, which gare train accepts.

    \b
    Examples:
      gare sweep configs/demo.yaml --shards shards
      gare sweep configs/demo.yaml --shards shards --set sweep.trials=16 --set runtime.name=weights
      gare sweep configs/msrvtt.yaml --sweep configs/sweeps/loss_terms.yaml --shards shards --dry-run
      gare sweep --resume weights --extend 8
      gare sweep configs/events.yaml --sweep configs/sweeps/claims.yaml --shards shards --local
    """
    from gare.api import sweep as api

    if dry_run:
        from gare.cli.dry_run import dry_run_sweep

        return dry_run_sweep(api.open_sweep(config_file, overrides, **options)[0], extend)
    report = api.sweep(config_file, set=overrides, extend=extend, local=local, **options)
    print_sweep(report.comparison)
    _print_cost(report.record)
    result = report.as_json()
    if registered is not None:
        from gare.api.register import best_run, register_run

        done = register_run(best_run(report.directory), registered)
        note(f"{done.address} is registered.")
        result["registered"] = asdict(done)
    return result


def _print_cost(record: SweepRecord) -> None:
    overhead = record.overhead()
    if overhead is not None:
        training = sum(trial.train_s for trial in record.trials)
        rest = overhead * training / len(record.trials)
        note(f"{training:.0f} s of training in all; {rest:.1f} s a trial were not training (overhead {overhead:.2f})")

"""Measure how much of a sweep's time is not training.

    python benchmarks/sweeping.py [--trials N] [--epochs N] [--slots N] [--scheduler asha] [--tracking]

A real ``gare sweep`` of the demo's model and settings on shards of noise, with trials of one worker, ``--slots`` of
them at a time. Overhead is wall x slots / the sum of the trials' training time - 1, with the wall time of the whole
command, Ray's own start included; training time comes from each run's own record, evaluation included. The script also
prints the seconds per trial that are not training, and how many of them lie between a trial's start and its end, by the
sweep's record; the others are paid once or wait for a trial's process. Run the script of an earlier commit to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.made import caption, made_shards

from gare.model.scratch import ScratchClip, make_clip

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
NAME = "sweeping"
VIDEOS, DEV_VIDEOS = 320, 32


def settings(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the sweep's settings: one weight at random, trials of one worker on a CPU."""
    return [
        f"model.clip={folder / 'clip'}",
        f"runtime.shards={folder / 'shards'}",
        f"runtime.output={folder / 'runs'}",
        f"runtime.name={NAME}",
        f"runtime.tracking={json.dumps(options.tracking)}",
        f"runtime.cpus_per_worker={(os.cpu_count() or 1) / options.slots:g}",
        "runtime.workers=1",
        "runtime.device=cpu",
        f"train.epochs={options.epochs}",
        f"sweep.trials={options.trials}",
        f"sweep.scheduler={options.scheduler}",
    ]


def measured(folder: Path, options: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """Return the command's wall seconds, and the trials of its record, each with its run's own training time."""
    program = "from gare.cli import main; main()"
    command = [sys.executable, "-c", program, "sweep", str(DEMO)]
    for setting in settings(folder, options):
        command += ["--set", setting]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - began
    trials = json.loads((folder / "runs" / NAME / "sweep.json").read_text(encoding="utf-8"))["trials"]
    for trial in trials:
        run = json.loads((Path(trial["directory"]) / "run.json").read_text(encoding="utf-8"))
        trial["train_s"] = run["seconds"]
    return wall, trials


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--slots", type=int, default=2, help="trials at a time")
    parser.add_argument("--scheduler", choices=["none", "asha"], default="none")
    parser.add_argument("--tracking", action="store_true", help="with MLflow runs, in SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made_shards(folder / "shards", VIDEOS, frames=8, side=64, dev=DEV_VIDEOS)
        make_clip([caption(number) for number in range(200)], folder / "clip", ScratchClip())
        wall, trials = measured(folder, options)
    spent = wall * options.slots
    training = sum(trial["train_s"] for trial in trials)
    around = sum(max(0.0, trial["seconds"] - trial["train_s"]) for trial in trials)
    print(
        f"{len(trials)} trials, {options.slots} at a time on {os.cpu_count()} CPUs: {wall:.0f} s, "
        f"{training / len(trials):.1f} s of training a trial"
    )
    print(f"overhead {spent / training - 1:.2f}, {(spent - training) / len(trials):.1f} s a trial not training")
    print(f"of them {around / len(trials):.1f} s between a trial's start and its end")


if __name__ == "__main__":
    main()

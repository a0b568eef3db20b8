"""Measure what small commands cost, nearly all of it before and after their work, in this checkout and another.

    python benchmarks/starting.py [--other DIR] [--turns N] [--only search evaluate ...]

Makes a toy project of a few seconds of work, then runs each command on it, every time as a process of its own; with
``--other``, the folder of another checkout of this project, in turns with that one's. Prints the medians of processor
time (of the process and those it waited for; Ray's own processes are not among them) and of wall time, and how many
times as much the other one takes, with the range over the turns. On a busy machine believe the processor time.

To compare with an earlier commit: ``git worktree add /tmp/before COMMIT``, then ``--other /tmp/before``.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
VIDEOS = 24
DEMO = str(HERE / "configs" / "demo.yaml")
TRAINING = ("train.epochs=1", "train.global_batch=8", "model.clip=clip", "runtime.workers=1", "runtime.output=runs")


@dataclass
class Costs:
    """Processor and wall seconds of one command in one checkout, a value per turn."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def gare(checkout: Path, folder: Path, arguments: Sequence[str]) -> tuple[float, float]:
    """Run a command of a checkout in ``folder``; return its processor and wall seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(checkout), "GARE_QUIET": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "gare", *arguments]
    done = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"gare {' '.join(arguments)} in {checkout} failed: {done.stderr.strip()[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def settings(values: Sequence[str]) -> list[str]:
    """Return ``--set`` options."""
    return [part for value in values for part in ("--set", value)]


def training(name: str) -> list[str]:
    """Return the options of a run of a second."""
    return settings((*TRAINING, f"runtime.name={name}"))


def made_project(folder: Path, checkout: Path) -> None:
    """Make a corpus, a CLIP, shards and a run in a folder, with one of the checkouts."""
    columns = ("--columns", "video_id=video_id,uri=file,captions=caption", "--root", "corpus", "--out")
    split = ("--carve", "dev=0.2,test=0.3")
    for arguments in (
        ("corpus", "--out", "corpus", "--videos", str(VIDEOS)),
        ("manifest", "csv", "corpus/captions.csv", *columns, "manifest.parquet", *split),
        ("make-clip", "manifest.parquet", "--out", "clip", "--image-size", "64"),
        ("prepare", "manifest.parquet", "--out", "shards", "--local", "--config", DEMO),
        ("train", DEMO, "--local", "--shards", "shards", *training("toy")),
    ):
        gare(checkout, folder, arguments)
    with (folder / "corpus/captions.csv").open(encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        names, row = rows.fieldnames or [], next(rows)
    with (folder / "one.csv").open("w", encoding="utf-8", newline="") as stream:
        written = csv.DictWriter(stream, names)
        written.writeheader()
        written.writerow(row)
    gare(checkout, folder, ("manifest", "csv", "one.csv", *columns, "one.parquet"))


Command = Callable[[str], Sequence[str]]
"""Makes the arguments of a run with a name of its own: its turn and the number of its checkout."""
COMMANDS: dict[str, Command] = {
    "search": lambda name: ("search", f"index-of-{name.partition('-')[2]}", "a red circle moving left"),
    "index": lambda name: ("index", "runs/toy", "--shards", "shards", "--out", f"index-{name}"),
    "evaluate": lambda name: ("evaluate", "runs/toy", "--shards", "shards", "--out", f"evaluation-{name}"),
    "prepare, one video": lambda name: ("prepare", "one.parquet", "--out", f"one-{name}", "--config", DEMO),
    "train --local": lambda name: ("train", DEMO, "--local", "--shards", "shards", *training(name)),
    "train": lambda name: ("train", DEMO, "--shards", "shards", *training(f"ray-{name}")),
    "sweep, two trials": lambda name: (
        "sweep", DEMO, "--sweep", "sweep.yaml", "--shards", "shards", *training(f"sweep-{name}"),
    ),
}  # fmt: skip


def measure(folder: Path, checkouts: Sequence[Path], names: Sequence[str], turns: int) -> None:
    """Run the commands in turns and print a row for each."""
    print(f"{'':22s}{'CPU s':>8s}{'wall s':>8s}   times as much in the other: CPU, wall")
    for command in names:
        costs = {checkout: Costs() for checkout in checkouts}
        for turn in range(turns):
            for checkout in checkouts if turn % 2 == 0 else checkouts[::-1]:
                arguments = COMMANDS[command](f"{turn}-{checkouts.index(checkout)}")
                cpu, wall = gare(checkout, folder, arguments)
                costs[checkout].cpu.append(cpu)
                costs[checkout].wall.append(wall)
        ours = costs[checkouts[0]]
        ratios = [f"{ratio(theirs.cpu, ours.cpu)}, {ratio(theirs.wall, ours.wall)}" for theirs in [*costs.values()][1:]]
        print(
            f"{command:22s}{statistics.median(ours.cpu):8.2f}{statistics.median(ours.wall):8.2f}   {' '.join(ratios)}",
            flush=True,
        )


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Format the median ratio of the turns, and their range."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, help="folder of another checkout to compare with")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), metavar="COMMAND")
    options = parser.parse_args()
    checkouts = [HERE, *([options.other.resolve()] if options.other else [])]
    with tempfile.TemporaryDirectory(prefix="gare-bench-") as name:
        folder = Path(name)
        (folder / "sweep.yaml").write_text("sweep:\n  space:\n    train.seed: {grid: [1, 2]}\n", encoding="utf-8")
        made_project(folder, checkouts[-1])  # an older checkout cannot read what a newer one makes
        for number, checkout in enumerate(checkouts):
            gare(checkout, folder, ("index", "runs/toy", "--shards", "shards", "--out", f"index-of-{number}"))
        measure(folder, checkouts, options.only, options.turns)


if __name__ == "__main__":
    main()

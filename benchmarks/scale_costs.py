"""Show what a corpus costs to prepare, keep and train on, from the unit costs in benchmarks/scale/costs.py.

    python benchmarks/scale_costs.py prepare [--videos 10e6] [--cores 16 160 1600] [--unit-videos 64] [--storage raw]
    python benchmarks/scale_costs.py files [--videos 10e6] ...
    python benchmarks/scale_costs.py train [--gpus 1 8 64] [--rows 128] [--step-s S] ...
    python benchmarks/scale_costs.py score

``--set name=value`` replaces any unit cost or assumption (``--set core_hour=0.031``). docs/scale.md shows these tables;
a test compares them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from scale.costs import (
    DENSE,
    FACTORISED,
    GB,
    HOUR,
    MB,
    Assumed,
    Measured,
    checkpoint_bytes,
    files,
    preparing,
    scoring_hours,
    step,
)

Told = argparse.Namespace


def show_prepare(told: Told, measured: Measured, assumed: Assumed) -> None:
    """Show prepare on more and more cores."""
    print(f"{told.videos:.0f} videos, units of {told.unit_videos}, stored {told.storage}")
    print(
        f"{'cores':>7s}{'nodes':>7s}{'videos/s':>10s}{'hours':>9s}{'efficiency':>12s}{'price':>9s}{'read GB/s':>11s}"
        f"{'write GB/s':>12s}{'units/s':>9s}{'driver':>10s}  bottleneck"
    )
    for cores in told.cores:
        made = preparing(told.videos, cores, told.unit_videos, told.storage, measured, assumed)
        written = {"raw": measured.raw_bytes, "jpeg": measured.jpeg_bytes}[told.storage]
        print(
            f"{cores:7d}{made.nodes:7.0f}{made.rate:10.0f}{made.hours:9.1f}{made.efficiency:12.0%}{made.price:9.0f}"
            f"{made.rate * measured.source_bytes / GB:11.2f}{made.rate * written / GB:12.2f}"
            f"{made.rate / told.unit_videos:9.1f}{made.driver_bytes / MB:7.0f} MB  {made.bottleneck}"
        )


def show_files(told: Told, measured: Measured, assumed: Assumed) -> None:
    """Show the files, and the cost of opening them."""
    print(f"{told.videos:.0f} videos, stored {told.storage}")
    cases = list(zip(told.unit_videos, told.shard_mib, strict=True))
    made = [files(told.videos, units, mib * 2**20, told.storage, measured, assumed) for units, mib in cases]
    rows: list[tuple[str, list[str]]] = [
        ("videos a unit, MiB a shard", [f"{units}, {mib}" for units, mib in cases]),
        ("work units and ledger parts", [f"{one.units}" for one in made]),
        ("shards", [f"{one.shards}" for one in made]),
        ("shards, TB", [f"{one.stored_tb:.2f}" for one in made]),
        ("  price a month", [f"{one.month:.0f}" for one in made]),
        ("ledger and manifest, GB", [f"{one.ledger_gb:.1f}" for one in made]),
        ("dataset.json, MB", [f"{one.dataset_mb:.1f}" for one in made]),
        ("start of a new job, minutes", [f"{one.open_s / 60:.1f}" for one in made]),
        ("  its driver's memory, GB", [f"{one.driver_gb:.1f}" for one in made]),
        ("looking what is to do, minutes", [f"{one.look_s / 60:.1f}" for one in made]),
        ("  and waiting for an object store", [f"{one.answers_s / 60:.1f}" for one in made]),
        ("  price of its requests", [f"{one.requests_price:.2f}" for one in made]),
        ("start of a training rank, minutes", [f"{one.rank_start_s / 60:.1f}" for one in made]),
        ("  its memory, GB", [f"{one.rank_gb:.1f}" for one in made]),
        ("order of an epoch, minutes", [f"{one.order_s / 60:.1f}" for one in made]),
    ]
    for says, values in rows:
        print(f"{says:36s}" + "".join(f"{value:>12s}" for value in values))


def show_train(told: Told, measured: Measured, assumed: Assumed) -> None:
    """Show a step, an epoch and a run on more and more GPUs."""
    print(
        f"{told.videos:.0f} videos, {told.epochs} epochs, {told.rows} a GPU, stored {told.storage}, increments "
        f"{told.increments}, {assumed.peak / 1e12:.0f} TFLOP/s x {assumed.utilisation:.0%}, "
        f"{assumed.nic * 8 / GB:.0f} Gbit/s a node"
    )
    print(
        f"{'GPUs':>6s}{'batch':>8s}{'compute':>10s}{'of it pairs':>13s}{'gradients':>11s}{'gather':>9s}{'frames':>9s}"
        f"{'readers':>9s}{'videos/s':>10s}{'efficiency':>12s}{'hours':>8s}{'price':>8s}  loses most to"
    )
    for gpus in told.gpus:
        made = step(gpus, told.rows, told.storage, told.increments, measured, assumed, told.step_s)
        hours = told.videos * told.epochs / made.rate / HOUR
        print(
            f"{gpus:6d}{gpus * told.rows:8d}{made.compute_s * 1e3:7.0f} ms{made.pairs_share:13.0%}"
            f"{made.reduce_s * 1e3:8.0f} ms{made.gather_s * 1e3:6.0f} ms{made.read / made.disk * 1e3:6.0f} ms"
            f"{made.readers:9.1f}{made.rate:10.0f}{made.efficiency:12.0%}"
            f"{hours:8.1f}{hours * gpus * assumed.gpu_hour:8.0f}  {made.loses_most}"
        )


def show_score(_: Told, measured: Measured, assumed: Assumed) -> None:
    """Show the cost of scoring a gallery, and of a checkpoint."""
    print(f"a checkpoint: {checkpoint_bytes(measured) / GB:.2f} GB, {checkpoint_bytes(measured) / GB:.1f} s at 1 GB/s")
    print(f"{'texts x videos':>16s}{'pairs':>10s}{'GPU-hours dense':>17s}{'factorised':>12s}")
    for count in (1_000, 10_000, 100_000, 10_000_000):
        hours = [scoring_hours(count, count, way, measured, assumed) for way in (DENSE, FACTORISED)]
        print(f"{count:16d}{float(count) ** 2:10.0e}{hours[0]:17.3f}{hours[1]:12.3f}")


SHOW: dict[str, Callable[[Told, Measured, Assumed], None]] = {
    "prepare": show_prepare,
    "files": show_files,
    "train": show_train,
    "score": show_score,
}


def _replaced(measured: Measured, assumed: Assumed, settings: Sequence[str]) -> tuple[Measured, Assumed]:
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in {field.name for field in fields(Measured)}:
            measured = replace(measured, **{name: float(value)})
        elif name in {field.name for field in fields(Assumed)}:
            assumed = replace(assumed, **{name: float(value)})
        else:
            raise SystemExit(f"There is no unit cost or assumption {name!r}; benchmarks/scale/costs.py lists them.")
    return measured, assumed


def main(arguments: Sequence[str]) -> None:
    """Print the requested table; all of them without arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parts = parser.add_subparsers(dest="part")
    for part, show in SHOW.items():
        of_part = parts.add_parser(part, help=show.__doc__)
        of_part.add_argument("--videos", type=float, default=10e6)
        of_part.add_argument("--storage", choices=["raw", "jpeg"], default="raw")
        of_part.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
        if part == "prepare":
            of_part.add_argument("--cores", type=int, nargs="+", default=[2, 16, 160, 1600, 16000])
            of_part.add_argument("--unit-videos", type=int, default=64)
        if part == "files":
            of_part.add_argument("--unit-videos", type=int, nargs="+", default=[64, 512, 1024])
            of_part.add_argument("--shard-mib", type=int, nargs="+", default=[256, 1024, 2048])
        if part == "train":
            of_part.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 16, 64])
            of_part.add_argument("--rows", type=int, default=128, help="videos of a GPU's batch")
            of_part.add_argument("--epochs", type=int, default=5)
            of_part.add_argument("--increments", choices=[DENSE, FACTORISED], default=DENSE)
            of_part.add_argument("--step-s", type=float, help="a measured step of one GPU with that batch, in seconds")
    for part in [arguments] if arguments else [[name] for name in SHOW]:
        told = parser.parse_args(part)
        SHOW[told.part](told, *_replaced(Measured(), Assumed(), told.set))
        if not arguments:
            print()


if __name__ == "__main__":
    main(sys.argv[1:])

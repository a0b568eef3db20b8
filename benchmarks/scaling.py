"""Run the data job and training on many logical nodes, with real Ray scheduling and work that sleeps.

    python benchmarks/scaling.py [--nodes 1 2 4 8 16] [--slots 2] [--units 6] [--quick] [--part prepare train dispatch]
        [--portion UNITS]

Every node is a separate raylet on this machine with ``--slots`` CPUs, next to a head without any. Each size is measured
in its own process and cluster.

prepare: gare's data job (pipelines/prepare/job.py) does ``--units`` work units of 64 videos per slot. Everything is
real, shards and ledger too, except the decoding, which sleeps the measured time of a video. Start-up is excluded:
worker processes exist before, and the rate is measured from the moment when all slots are busy to the one when the last
unit begins. Efficiency is that rate over N times the rate of one node; it includes what happens between two executions
of the job, whose size ``--portion`` sets instead of the job's own rule. The tail, in which slots have nothing left to
do, and the whole job, start and tail included, have columns of their own.

dispatch: the same job with units of one video that takes no time, on all slots of the largest size: how many units per
second one driver can hand out, and what a unit costs it in CPU and memory.

train: Ray Train with one rank per node and steps that sleep: what an epoch's report costs in addition to the steps, and
how long ranks take to start. Nothing of a real step goes through Ray, so the collective's own time is not included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from common.process import OwnMemory, own_process
from scale.decoding import SPANS, VIDEO_S, made_manifest, sleeping, spans_of, warm_up
from scale.nodes import fake_run, logical_nodes, used, worker_memory
from scale.spans import Span, longest_pause, steady, whole

SIDE = 8
UNIT = 64
EXPLAINED = """\
efficiency: the rate over nodes x that of one node, from all slots at work to the last unit's beginning
busy: share of the slots' time in there; gap: a slot's wait between two units
start: to all slots at work; tail: from the last unit's beginning to the last end
whole: share of all slots' time, start and tail included; pause: the longest time in which no unit began
driver, raylets (and GCS): CPU per unit; machine: share of its CPU in use, by whatever"""
EPOCHS, STEPS, STEP_S = 6, 10, 0.25


def prepare(nodes: int, slots: int, units: int, unit_videos: int, portion: int, video_s: float) -> dict[str, Any]:
    """Run the job on so many nodes in this process, ``units`` per slot; ``portion``: units per execution, or 0."""
    from gare.config import PrepareConfig
    from pipelines.prepare import job as shards
    from pipelines.prepare import ray_units

    if portion:
        ray_units.PORTION, ray_units.PER_SLOT = portion, 0
    recipe = PrepareConfig(short_side=SIDE, crop=SIDE, unit_videos=unit_videos)
    total = units * nodes * slots
    with tempfile.TemporaryDirectory() as folder, logical_nodes(nodes, slots):
        manifest = made_manifest(Path(folder) / "manifest.parquet", total * unit_videos)
        began = time.time()
        warm_up(nodes * slots)
        started = time.time() - began
        if not video_s:  # excludes what the first job of a process imports and holds
            few = made_manifest(Path(folder) / "few.parquet", nodes * slots)
            with shards.open_job(few, Path(folder) / "few", recipe) as opened:
                (Path(folder) / "few" / SPANS).mkdir()
                shards.run_job(opened, work=sleeping(0.0))
        with shards.open_job(manifest, Path(folder) / "out", recipe) as opened:
            (Path(folder) / "out" / SPANS).mkdir()
            before, began = used(), time.time()
            with OwnMemory() as memory:
                shards.run_job(opened, work=sleeping(video_s))
            after, ended = used(), time.time()
            spans = spans_of(Path(folder) / "out")
        processes, held = worker_memory()
    return {
        "units": total,
        "worker_start_s": started,
        "spans": [asdict(span) for span in spans],
        "began": began,
        "ended": ended,
        "memory_mb": memory.added(),
        "processes": processes,
        "process_mb": held,
        **{name: value - getattr(before, name) for name, value in asdict(after).items()},
    }


def show_prepare(options: argparse.Namespace) -> None:
    """Print the table of the data job."""
    print(
        f"prepare: units of {options.unit_videos} videos x {VIDEO_S * 1e3:.0f} ms in the mean, {options.slots} slots "
        f"per node,\n{options.units} units per slot, on {psutil.cpu_count()} cores"
    )
    print(
        f"{'nodes':>6s}{'slots':>6s}{'units':>6s}{'videos/s':>9s}{'efficiency':>11s}{'busy':>7s}{'gap':>8s}{'start':>7s}"
        f"{'tail':>7s}{'whole':>7s}{'pause':>7s}{'driver':>9s}{'raylets':>9s}{'machine':>8s}"
    )
    one = None
    for nodes in options.nodes:
        arguments = (nodes, options.slots, options.units, options.unit_videos, options.portion, VIDEO_S)
        made = json.loads(own_process(__file__, "--own-prepare", *arguments).splitlines()[-1])
        slots, units = nodes * options.slots, made["units"]
        spans = [Span(**span) for span in made["spans"]]
        found = steady(spans, slots)
        one = one or found.rate / nodes
        busy = made["machine"] / ((made["ended"] - made["began"]) * (psutil.cpu_count() or 1))
        print(
            f"{nodes:6d}{slots:6d}{units:6d}{found.rate * options.unit_videos:9.1f}{found.rate / nodes / one:11.1%}"
            f"{found.busy:7.1%}{found.gap * 1e3:5.0f} ms{found.begin - made['began']:5.1f} s"
            f"{found.end - found.dry:5.1f} s{whole(spans, slots, made['began']):7.1%}{longest_pause(spans):5.1f} s"
            f"{made['driver'] / units * 1e3:6.1f} ms{made['scheduler'] / units * 1e3:6.1f} ms{busy:8.0%}",
            flush=True,
        )
    print(EXPLAINED)
    print(
        f"a worker process holds {made['process_mb']:.0f} MB of its own ({made['processes']} of them); they took "
        f"{made['worker_start_s']:.0f} s to start and import, left out above"
    )


def show_dispatch(options: argparse.Namespace) -> None:
    """Measure how fast one driver hands out units."""
    nodes = max(options.nodes)
    arguments = (nodes, options.slots, options.handed, 1, options.portion, 0.0)
    made = json.loads(own_process(__file__, "--own-prepare", *arguments).splitlines()[-1])
    units, wall = made["units"], made["ended"] - made["began"]
    print(
        f"\ndispatch: {units} units of nothing on {nodes * options.slots} slots: {units / wall:.0f} units/s; "
        f"driver {made['driver'] / units * 1e3:.1f} ms CPU and {made['memory_mb'] / units * 1024:.1f} KB a unit, "
        f"raylets and GCS {made['scheduler'] / units * 1e3:.1f} ms, workers {made['workers'] / units * 1e3:.1f} ms"
    )


def show_train(options: argparse.Namespace) -> None:
    """Print the table of training."""
    print(f"\ntrain: {EPOCHS} epochs of {STEPS} steps of {STEP_S} s, one rank per node, a report after each epoch")
    print(f"{'ranks':>7s}{'start':>9s}{'efficiency':>12s}{'report':>12s}{'apart':>10s}{'end':>8s}")
    for nodes in options.nodes:
        made = json.loads(own_process(__file__, "--own-train", nodes).splitlines()[-1])
        print(
            f"{nodes:7d}{made['start_s']:7.1f} s{made['efficiency']:12.1%}{made['report_s'] * 1e3:9.0f} ms"
            f"{made['apart_s'] * 1e3:7.0f} ms{made['end_s']:6.1f} s",
            flush=True,
        )
    print(
        "start: from fit() to the last rank's first step; efficiency: time in steps over time from there to the last "
        "epoch's end;\nreport: the barrier of an epoch, median of the slowest rank; apart: the last rank's first step "
        "after the first one's; end: fit() after that"
    )


def main(arguments: Sequence[str]) -> None:
    """Run the requested parts."""
    if arguments[:1] == ["--own-prepare"]:
        nodes, slots, units, unit_videos, portion = (int(value) for value in arguments[1:6])
        return print(json.dumps(prepare(nodes, slots, units, unit_videos, portion, float(arguments[6]))))
    if arguments[:1] == ["--own-train"]:
        with logical_nodes(int(arguments[1]), 1):
            return print(json.dumps(fake_run(int(arguments[1]), EPOCHS, STEPS, STEP_S)))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--slots", type=int, default=2, help="CPUs of a node")
    parser.add_argument("--units", type=int, default=6, help="units per slot")
    parser.add_argument("--unit-videos", type=int, default=UNIT)
    parser.add_argument("--portion", type=int, default=0, help="units per execution in place of the job's own number")
    parser.add_argument("--handed", type=int, default=64, help="units per slot that dispatch hands out")
    parser.add_argument("--part", nargs="+", choices=SHOW, default=list(SHOW))
    parser.add_argument("--quick", action="store_true", help="1 and 2 nodes, small units: does it work at all")
    options = parser.parse_args(arguments)
    if options.quick:
        options.nodes, options.units, options.unit_videos, options.handed = [1, 2], 4, 20, 8
    for part in options.part:
        SHOW[part](options)
    return None


SHOW = {"prepare": show_prepare, "dispatch": show_dispatch, "train": show_train}

if __name__ == "__main__":
    main(sys.argv[1:])

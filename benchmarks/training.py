"""Measure training: the cost of the workers' collective work, and how long a step waits for its data.

    python benchmarks/training.py [--quick]

On CPUs: the demo's model and settings (configs/demo.yaml) on shards of noise. Two 1-thread Ray Train workers share a
batch of 64. They are compared with one 1-thread plain process (``gare train --local``) with a batch of 32, so that each
worker has as many samples as the plain process; and with two such processes that are independent of each other, which
shows what the machine itself loses when both of its cores are busy. The loop is the same in all three. The run's
history records the time of each step; start-up, the first steps, evaluation and checkpoints are left out. Rounds are
taken in turns, and the median ratio and its range are printed.

With a GPU: ViT-B/32 (random weights), a batch of 128 videos x 12 frames read from shards, in bf16, compared with the
plain loop: batches made in the loop, normalised on the host and sent as float32, every frame encoded, padded ones too,
attention without fused kernels, all in float32. Without a GPU this part is reported as absent.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from common.made import caption, made_shards
from common.process import own_process, own_processes
from training_loops import Taken, make_vit_b_32, of_history, ours, plain

from gare.config import Config
from gare.config.tree import load_config
from gare.model.scratch import ScratchClip, make_clip

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
PER_WORKER = 32
GPU_VIDEOS, GPU_SIDE = 1024, 224
LEFT_OUT = 5
WAYS = {
    "plain": "one plain process",
    "two": "two plain processes at once, the slower",
    "ray": "two Ray Train workers",
}
WANTED_RATIO, WANTED_WAIT = 0.85, 0.05


@dataclass(frozen=True)
class Peer:
    """A way to train in the GPU part."""

    says: str
    loop: Callable[[Config], Taken]
    settings: tuple[str, ...] = ()


GPU_WAYS = {
    "gpu-plain": Peer("plain loop, float32", plain),
    "gpu-ours": Peer("gare train, bf16", ours, ("train.precision=bf16",)),
    "gpu-factorised": Peer(
        "gare train, bf16, factorised increments", ours, ("train.precision=bf16", "train.increments=factorised")
    ),
}


def demo_config(folder: Path, workers: int, epochs: int) -> Config:
    """Return the demo's settings on synthetic shards, with the same number of samples for each worker."""
    return load_config(
        DEMO,
        [
            f"model.clip={folder / 'clip'}",
            f"runtime.shards={folder / 'shards'}",
            f"runtime.output={folder / 'runs'}",
            f"runtime.name=run-{os.getpid()}",
            f"runtime.workers={workers}",
            "runtime.tracking=false",
            "runtime.device=cpu",
            "runtime.log_every=1",
            "protocol.dev=none",
            f"train.global_batch={PER_WORKER * workers}",
            f"train.epochs={epochs}",
        ],
    )


def train_here(way: str, folder: Path, epochs: int) -> None:
    """Train in this process, and print samples/s per worker and the share of the time waited for data."""
    if way == "ray":
        from gare.launch.ray_session import ray_session
        from gare.launch.ray_train import fit

        config = demo_config(folder, 2, 2 * epochs)
        with ray_session(config.runtime):
            summary = fit(config, quiet=True)
    else:
        from gare.launch.local import fit_local

        summary = fit_local(demo_config(folder, 1, epochs), quiet=True)
    taken = of_history(summary, PER_WORKER, LEFT_OUT)
    print(taken.rate, taken.wait)


def measured(way: str, folder: Path, epochs: int) -> tuple[float, float]:
    """Return samples/s per worker and the share of the time waited for data; of the slower of two processes."""
    printed = own_processes(2 if way == "two" else 1, __file__, "--way", way, "--folder", folder, "--epochs", epochs)
    rates, waits = zip(*([float(word) for word in text.split()] for text in printed), strict=True)
    return min(rates), max(waits)


def on_cpus(videos: int, epochs: int, rounds: int) -> None:
    """Print the table of the CPU part."""
    print(f"demo-sized steps, {PER_WORKER} samples per 1-thread worker, {rounds} rounds, {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made_shards(folder / "shards", videos, frames=8, side=64)
        make_clip([caption(number) for number in range(200)], folder / "clip", ScratchClip())
        taken = []
        for turn in range(rounds):
            taken.append({way: measured(way, folder, epochs) for way in WAYS})
            rates = ", ".join(f"{way} {taken[-1][way][0]:.1f}" for way in WAYS)
            print(f"  round {turn + 1}: {rates} samples/s per worker", flush=True)
    for way, says in WAYS.items():
        rate = statistics.median(turn[way][0] for turn in taken)
        print(f"  {says:48s} {rate:6.1f} samples/s per worker")
    for peer in ("plain", "two"):
        ratios = sorted(turn["ray"][0] / turn[peer][0] for turn in taken)
        print(
            f"  Ray Train worker / {WAYS[peer]}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            + (f"; wanted at least {WANTED_RATIO}" if peer == "plain" else "")
        )
    waits = sorted(turn["ray"][1] for turn in taken)
    print(
        f"  waiting for data, Ray Train workers: {statistics.median(waits):.2%} of a step "
        f"({waits[0]:.2%} to {waits[-1]:.2%}); wanted under {WANTED_WAIT:.0%}"
    )


def gpu_config(folder: Path, way: str, device: str, batch: int) -> Config:
    """Return the published recipe on synthetic shards; ``way`` is one of GPU_WAYS."""
    side = GPU_SIDE if device == "cuda" else 64
    return load_config(
        None,
        [
            f"prepare.short_side={side}",
            f"prepare.crop={side}",
            f"model.clip={folder / 'clip'}",
            f"runtime.shards={folder / 'shards'}",
            f"runtime.output={folder / 'runs'}",
            f"runtime.name={way}",
            f"runtime.device={device}",
            "runtime.tracking=false",
            "runtime.log_every=1",
            "runtime.read_threads=4",
            "protocol.dev=none",
            "train.epochs=1",
            f"train.global_batch={batch}",
            *GPU_WAYS[way].settings,
        ],
    )


def on_gpu(device: str, batch: int) -> None:
    """Print the table of the GPU part; each way runs in its own process, one after the other.

    On a CPU it uses a small model, to check that it runs.
    """
    real = device == "cuda"
    videos, captions, side = (GPU_VIDEOS, 20, GPU_SIDE) if real else (2 * batch, 8, 64)
    name = f"ViT-B/32 on {torch.cuda.get_device_name()}" if real else "a small model on the CPU"
    print(f"{name}, {batch} videos x 12 frames from shards, {videos * captions // batch} steps")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made_shards(folder / "shards", videos, frames=12, side=side, shortest=10, captions=captions)
        texts = [caption(number) for number in range(200)]
        if real:
            make_vit_b_32(texts, folder / "clip")
        else:
            make_clip(texts, folder / "clip", ScratchClip())
        rates = {}
        for way, peer in GPU_WAYS.items():
            arguments = ("--way", way, "--folder", folder, "--device", device, "--batch", batch)
            rate, wait, memory = (float(word) for word in own_process(__file__, *arguments).split())
            rates[way] = rate
            print(
                f"  {peer.says:44s} {rate:8.1f} samples/s  {rate / rates['gpu-plain']:5.2f} x  "
                f"{wait:6.2%} waiting for data  {memory:6.2f} GiB"
            )


def main() -> None:
    """Print the tables, or one measurement for the table's own processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, one way after the other in each")
    parser.add_argument("--videos", type=int, default=1472, help="videos of the made shards; the demo trains on 1480")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of the plain process; Ray's take twice as many")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=["cpu", "gpu"], default=["cpu", "gpu"])
    parser.add_argument("--batch", type=int, default=128, help="videos of a batch in the GPU part")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="of the GPU part")
    parser.add_argument("--way", choices=[*WAYS, *GPU_WAYS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way in GPU_WAYS:
        taken = GPU_WAYS[options.way].loop(gpu_config(options.folder, options.way, options.device, options.batch))
        print(taken.rate, taken.wait, taken.memory)
        return
    if options.way:
        train_here(options.way, options.folder, options.epochs)
        return
    if options.quick:
        options.rounds, options.videos = 1, 512
    if "cpu" in options.parts:
        on_cpus(options.videos, options.epochs, options.rounds)
    if "gpu" in options.parts:
        if options.device == "cuda" and not torch.cuda.is_available():
            print("ViT-B/32 on a GPU: absent, since torch sees no GPU here")
        else:
            on_gpu(options.device, options.batch)


if __name__ == "__main__":
    main()

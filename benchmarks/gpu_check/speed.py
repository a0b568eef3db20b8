"""Stages that time: the device's matrix rate, a training step against the plain loop, and where a step waits."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common.made import caption, made_shards
from torch.utils.flop_counter import FlopCounterMode
from training_loops import Taken, make_vit_b_32, ours, plain

from gare.config import Config
from gare.config.tree import load_config
from gare.data.batches import make_batch
from gare.launch.dry_run.memory import memory_of_step
from gare.model import GareModel
from gare.model.clip_source import inspect_clip
from gare.model.scratch import ScratchClip, make_clip
from gare.objective import SINGLE
from gare.runs.inputs import open_data
from gare.training.encoding import encode
from gare.training.numerics import numerics
from gare.training.optimiser import freeze, make_optimiser
from gare.training.step import train_step
from gpu_check.report import Found, Skipped
from gpu_check.setting import Sizes

REPEATS = 5
SYNCHRONISING = "called a synchronizing CUDA operation"


def rate(device: torch.device, side: int, dtype: torch.dtype) -> float:
    """Return the operations per second, in 10^12, of products of square matrices."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = timed(lambda: one @ other, device)
    return 2 * side**3 / seconds / 1e12


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the shortest of some times, in seconds, after one to warm up."""
    taken = []
    for _ in range(REPEATS + 1):
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def machine(device: torch.device, sizes: Sizes) -> Found:
    """Name the device and measure its matrix rates."""
    found: Found = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return found | {f"tflops_{name}": rate(device, sizes.matrix, kind) for name, kind in kinds.items()}


class Timed:
    """The data, the CLIP and the settings of the timed step; shards and CLIP are made once."""

    def __init__(self, device: torch.device, sizes: Sizes, folder: Path) -> None:
        self.device, self.sizes, self._folder = device, sizes, folder
        captions = [caption(number) for number in range(200)]
        if sizes.published:
            make_vit_b_32(captions, folder / "clip")
        else:
            make_clip(captions, folder / "clip", ScratchClip(sizes.side, 16, 128, 2, 2, 16, 600))
        videos = 4 * sizes.batch
        made_shards(folder / "timed", videos, sizes.frames, sizes.side, captions=sizes.captions)

    def config(self, name: str, *changes: str) -> Config:
        """Return the published recipe on these shards."""
        return load_config(
            None,
            [
                f"model.clip={self._folder / 'clip'}",
                f"runtime.shards={self._folder / 'timed'}",
                f"runtime.output={self._folder / 'runs'}",
                f"runtime.name={name}",
                f"runtime.device={self.device.type}",
                "runtime.tracking=false",
                "runtime.log_every=1",
                "protocol.dev=none",
                f"data.frames={self.sizes.frames}",
                f"prepare.max_frames={self.sizes.frames}",
                f"prepare.crop={self.sizes.side}",
                f"prepare.short_side={self.sizes.side}",
                "data.words=16",
                f"train.global_batch={self.sizes.batch}",
                "train.epochs=1",
                *changes,
            ],
        )

    def ours(self, name: str, *changes: str) -> Found:
        """Train an epoch by ``gare train --local``, and compare the peak memory with the dry run's estimate."""
        config = self.config(name, *changes)
        taken = self._taken(ours, config)
        if taken is None:
            return {"out of memory": True}
        architecture = inspect_clip(config.model.clip).architecture
        estimate = memory_of_step(architecture, config, 1).peak / 2**30
        found = _of(taken) | {"estimate_gib": estimate}
        return found | ({"estimate_share": estimate / taken.memory} if taken.memory else {})

    def plain(self) -> Found:
        """Train an epoch by the plain loop: float32 from the host, no fused attention, every frame encoded."""
        taken = self._taken(plain, self.config("plain"))
        return {"out of memory": True} if taken is None else _of(taken)

    def _taken(self, loop: Callable[[Config], Taken], config: Config) -> Taken | None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            return loop(config)
        except torch.OutOfMemoryError:
            return None

    def towers(self, peak_tflops: float) -> Found:
        """Time the towers' forward and backward pass in bf16, as a share of the device's matrix rate."""
        config, model, batch = self._made("train.precision=bf16")

        def work() -> None:
            made = encode(model, batch, config)
            torch.autograd.backward([made.text.sum() + made.words.sum() + made.frames.sum()])

        with FlopCounterMode(display=False) as counted:
            work()
        seconds = timed(work, self.device)
        done = counted.get_total_flops() / seconds / 1e12
        return {"towers_seconds": seconds, "towers_tflops": done, "share_of_rate": done / peak_tflops}

    def waits(self) -> Found:
        """Count how often the host waits for the GPU in a step: dense once, factorised three times."""
        if self.device.type != "cuda":
            raise Skipped("only a GPU is waited for")
        found: Found = {}
        for name, changes in {"dense": (), "factorised": ("train.increments=factorised",)}.items():
            config, model, batch = self._made("train.precision=bf16", *changes)
            optimiser = make_optimiser(model, config.train)
            with numerics(config):
                train_step(model, optimiser, batch, config, SINGLE, 0)
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    with warnings.catch_warnings(record=True) as said:
                        warnings.simplefilter("always")
                        train_step(model, optimiser, batch, config, SINGLE, 1)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            found[name] = sum(SYNCHRONISING in str(one.message) for one in said)
        return found | {"passed": found["dense"] <= 1 and found["factorised"] <= 3}

    def _made(self, *changes: str) -> tuple[Config, GareModel, Any]:
        config = self.config("towers", *changes)
        data = open_data(config)
        model = GareModel.from_clip(config.model.clip, config.model)
        assert model.tokenizer is not None
        samples = data.batches(config, 0)[0]
        batch = make_batch(data.train, samples, model.tokenizer, config, model.image_size, epoch=0)
        freeze(model, config.train)
        moved = {name: value.to(self.device) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        return config, model.to(self.device).train(), replace(batch, **moved)


def _of(taken: Taken) -> Found:
    return {"samples_per_second": taken.rate, "data_wait": taken.wait, "peak_gib": taken.memory}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

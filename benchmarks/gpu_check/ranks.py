"""Stage: one step over two ranks, a GPU each over NCCL (two processes over gloo on a CPU), against one process."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import multiprocessing

from gare.objective import TorchWorld
from gpu_check.report import Found, Skipped, within
from gpu_check.same import EXACT, apart, one_step
from gpu_check.setting import noise, settings, small_model

RANKS = 2


def two_ranks(device: torch.device, folder: Path) -> Found:
    """Compare loss and gradient of the whole batch."""
    if device.type == "cuda" and torch.cuda.device_count() < RANKS:
        raise Skipped(f"there is {torch.cuda.device_count()} GPU")
    config = settings()
    loss, wanted, _ = one_step(small_model(config, device), noise(config, device), config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    multiprocessing.spawn(_rank, (device.type, port, str(folder)), nprocs=RANKS)  # type: ignore[no-untyped-call]
    found: Found = {}
    for rank in range(RANKS):
        made = load_file(folder / f"rank-{rank}.safetensors")
        found[f"rank {rank}: loss"] = abs(float(made["loss"]) - loss) / abs(loss)
        found[f"rank {rank}: gradient"] = apart(made["gradient"], wanted.cpu())
    return within(found, dict.fromkeys(found, EXACT))


def _rank(rank: int, kind: str, port: int, folder: str) -> None:
    device = torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    try:
        config, world = settings(), TorchWorld()
        whole = noise(config, device)
        own = world.own(config.train.global_batch // RANKS)
        parts = {name: value[own] for name, value in vars(whole).items() if value is not None}
        loss, gradient, _ = one_step(small_model(config, device), replace(whole, **parts), config, world)
        save_file(
            {"loss": torch.tensor(loss, dtype=torch.float64), "gradient": gradient.cpu()},
            Path(folder) / f"rank-{rank}.safetensors",
        )
    finally:
        torch.distributed.destroy_process_group()

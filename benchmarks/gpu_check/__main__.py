"""Check on one GPU, in at most six minutes, what a CPU cannot show; each stage prints a line and is kept at once.

    make gpu-check
    PYTHONPATH=.:benchmarks python -m gpu_check [--device cuda] [--out gpu-check.json] [--limit 360] [--only STAGE ...]

It needs torch, transformers, safetensors, numpy, pyarrow, pydantic, ruamel.yaml, rich, ftfy and psutil, but neither Ray
nor PyAV nor MLflow; the repository itself need not be installed. Without a GPU, ``--device cpu`` runs everything that
can run there, in small sizes. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from gpu_check.report import Found
    from gpu_check.setting import Sizes

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts

STAGES = (
    "machine", "released code", "devices", "heads", "paths", "draws", "gallery", "waits", "towers", "step",
    "step, factorised", "plain loop", "two ranks",
)  # fmt: skip


def stages(device: torch.device, sizes: Sizes, folder: Path, *, compiled: bool) -> dict[str, Callable[[], Found]]:
    """Return the stages by name, in their order."""
    from gpu_check import gallery, ranks, same, speed

    timed = cache(lambda: speed.Timed(device, sizes, folder))
    peak = cache(lambda: speed.rate(device, sizes.matrix, speed.torch.bfloat16))
    left_out = frozenset[str]() if compiled else frozenset({"compiled"})
    work = (
        partial(speed.machine, device, sizes),
        partial(same.released, device),
        partial(same.devices, device),
        partial(same.heads, device),
        partial(same.paths, device, left_out),
        partial(same.draws, device),
        partial(gallery.gallery, device, sizes, folder),
        lambda: timed().waits(),
        lambda: timed().towers(peak()),
        lambda: timed().ours("step", "train.precision=bf16"),
        lambda: timed().ours("factorised", "train.precision=bf16", "train.increments=factorised"),
        lambda: timed().plain(),
        partial(ranks.two_ranks, device, folder),
    )
    return dict(zip(STAGES, work, strict=True))


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--limit", type=float, default=360.0, help="seconds after which no stage begins any more")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--compile", action="store_true", help="compile on a CPU too, which takes minutes")
    options = parser.parse_args()

    import torch

    from gpu_check.report import Report
    from gpu_check.setting import FULL, SMALL

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --device cpu runs small sizes of what can run without one.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    cuda = device.type == "cuda"
    about = {"date": dt.datetime.now(dt.UTC).date().isoformat(), "python": platform.python_version()}
    report = Report(options.out, options.limit, device=options.device, **about)
    with tempfile.TemporaryDirectory() as folder:
        every = stages(device, FULL if cuda else SMALL, Path(folder), compiled=cuda or options.compile)
        for name, stage in every.items():
            if name in options.only:
                report.run(name, stage)
    print(f"-> {options.out}")
    if report.failed:
        sys.exit(f"failed: {', '.join(report.failed)}")


if __name__ == "__main__":
    main()

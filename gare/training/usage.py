"""What this process takes of its machine."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 2**30
_without_utilisation: set[torch.device] = set()


def peak_rss() -> float:
    """Most memory this process has held at once, in GiB; one started by another may have that one's peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def peak_cuda(device: torch.device) -> float:
    """Most memory torch has held for tensors on a GPU at once, in GiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else 0.0


def gpu_utilisation(device: torch.device) -> float | None:
    """Share of the last moments in which a GPU was at work, 0 to 1; None on a CPU and where nothing tells it.

    torch asks pynvml, which need not be installed.
    """
    if device.type != "cuda" or device in _without_utilisation:
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # whatever pynvml raises without a driver, in a container, on a part of a GPU  # noqa: BLE001
        _without_utilisation.add(device)
        return None

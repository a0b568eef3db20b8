"""Every rank trains a model of its own; they have to be the same one."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

from gare.common.console import warn
from gare.common.errors import RunError
from gare.objective.ranks import Ranks

ROUNDING = 1e-3
"""Ranks on processors of different kinds are apart by less than this, as a share of a tensor's largest weight."""


@torch.no_grad()
def share_weights(model: nn.Module, ranks: Ranks) -> None:
    """Give every rank the weights of rank 0: processors draw and round a little differently."""
    for tensor in model.state_dict().values():
        ranks.share(tensor)


def check_same_weights(model: nn.Module, ranks: Ranks, when: str) -> None:
    """Check that every rank has the weights of rank 0, which ranks that differ by rounding alone are given again.

    Raises RunError on every rank, naming ``when``, where a rank is further away.
    """
    if ranks.size == 1:
        return
    found = ranks.gather_texts(weights_digest(model))
    if len(set(found)) == 1:
        return
    apart = [float(text) for text in ranks.gather_texts(repr(_distance(model, ranks)))]
    others = [str(rank) for rank, distance in enumerate(apart) if not distance <= ROUNDING]
    if others:
        raise RunError(
            f"{when} the weights of rank {', '.join(others)} are not those of rank 0, so the ranks do not train one "
            "model. Look at the memory and the software of those machines; the same command goes on from the last "
            "checkpoint."
        )
    share_weights(model, ranks)
    if ranks.rank == 0:
        warn(
            f"{when} the weights of the ranks differed by up to {max(apart):.1e}: their processors are of different "
            "kinds and round differently. All have the weights of rank 0 again."
        )


@torch.no_grad()
def _distance(model: nn.Module, ranks: Ranks) -> float:
    """How far this rank's weights are from rank 0's: the largest difference over the largest weight of its tensor."""
    largest = 0.0
    for tensor in model.state_dict().values():
        first = tensor.clone()
        ranks.share(first)
        scale = first.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        apart = float((tensor.double() - first.double()).abs().max() / scale)
        largest = max(largest, math.inf if math.isnan(apart) else apart)
    return largest


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the bytes of all parameters and buffers, in order."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

"""Every rank trains a model of its own; they have to be the same one."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from gare.common.errors import RunError
from gare.objective.ranks import Ranks


@torch.no_grad()
def share_weights(model: nn.Module, ranks: Ranks) -> None:
    """Give every rank the weights of rank 0: processors draw and round a little differently."""
    for tensor in model.state_dict().values():
        ranks.share(tensor)


def check_same_weights(model: nn.Module, ranks: Ranks, when: str) -> None:
    """Raise RunError on every rank, naming ``when``, where a rank's weights are not those of rank 0."""
    if ranks.size == 1:
        return
    found = ranks.gather_texts(weights_digest(model))
    others = [str(rank) for rank, digest in enumerate(found) if digest != found[0]]
    if others:
        raise RunError(
            f"{when} the weights of rank {', '.join(others)} are not those of rank 0, so the ranks do not train one "
            "model. Look at the memory and the software of those machines; the same command goes on from the last "
            "checkpoint."
        )


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the bytes of all parameters and buffers, in order."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

"""Where a step that is not finite comes from: which worker, which videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from gare.data.batches import Batch
from gare.objective.ranks import Ranks
from gare.training.encoding import Encoded

NAMED_VIDEOS = 8
KINDS = ("embeddings", "scores", "gradients")


def suspects(batch: Batch, made: Encoded, logits: Callable[[], Tensor], own_norm: Tensor | None, ranks: Ranks) -> str:
    """What to look at, in words that are the same on every rank. Call on all ranks.

    The first of these that is there on any rank: pairs whose embeddings are not finite; pairs whose row of ``logits``
    [b, B] is not; ranks whose gradient is not (``own_norm``: of this rank's before the sum); else all of the batch.
    """
    own = {
        "embeddings": _named(batch, made.finite_rows()),
        "scores": _named(batch, _finite_rows(logits)),
        "gradients": [] if own_norm is None or torch.isfinite(own_norm) else batch.video_ids,
        "batch": batch.video_ids,
    }
    every = [json.loads(text) for text in ranks.gather_texts(json.dumps(own))]
    for kind in KINDS:
        found = {rank: names[kind] for rank, names in enumerate(every) if names[kind]}
        if found:
            where = f", on worker {', '.join(map(str, found))}" if len(found) < len(every) else ""
            return f"the videos whose {kind} are not finite{where}: {_listed(found.values())}"
    return f"the videos of this batch: {_listed(names['batch'] for names in every)}"


@torch.no_grad()
def _finite_rows(logits: Callable[[], Tensor]) -> Tensor:
    return torch.isfinite(logits()).all(dim=1)


def _named(batch: Batch, finite: Tensor) -> list[str]:
    return [name for name, fine in zip(batch.video_ids, finite.tolist(), strict=True) if not fine]


def _listed(names: Iterable[list[str]]) -> str:
    every = [name for of_rank in names for name in of_rank]
    return ", ".join(every[:NAMED_VIDEOS]) + (", ..." if len(every) > NAMED_VIDEOS else "")

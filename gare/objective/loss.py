"""Symmetric InfoNCE, and the whole objective: L_nce + beta L_ib + lambda_eps L_tr + lambda_dir L_dir (section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare.config.experiment import ObjectiveConfig
from gare.objective.increments import Increments
from gare.objective.regularisers import REGULARISERS
from gare.objective.world import SINGLE, World


def info_nce(logits: Tensor, world: World = SINGLE, false_negatives: Tensor | None = None) -> Tensor:
    """Compute L_nce: half the mean over rows of -log softmax at the diagonal, plus half the same over columns.

    Args:
        logits: this rank's rows [b, B] of exp(logit_scale) cos, B = b x ranks; row i matches column rank b + i.
        world: the ranks.
        false_negatives: bool [b, B], pairs known to match, which both softmaxes leave out; its diagonal is ignored.

    Returns a scalar, this rank's share: the shares of all ranks sum to the loss.
    """
    rows, columns = logits.shape
    own = world.own(rows)
    diagonal = logits[:, own].diagonal()
    if false_negatives is not None:
        false_negatives = false_negatives.clone()
        false_negatives[:, own].fill_diagonal_(False)
        logits = logits.masked_fill(false_negatives, -torch.inf)
    row_part = (logits.logsumexp(dim=1) - diagonal).sum()
    # Finite in every column: the rank that holds a column's diagonal never leaves it out.
    shift = world.max(logits.max(dim=0).values)
    normaliser = world.sum((logits - shift).exp().sum(dim=0)).log() + shift
    column_part = (normaliser[own] - diagonal).sum()
    return (row_part + column_part) / (2 * columns)


def known_pairs(groups: Tensor, world: World = SINGLE) -> Tensor:
    """Mark the pairs [b, B] of this rank's rows that share a group. ``groups``: the ids of its rows [b]."""
    return groups[:, None] == world.gather_constant(groups)[None, :]


TERM_NAMES = ("loss", "info_nce", *REGULARISERS)


@dataclass(frozen=True)
class Terms:
    """This rank's share of the loss, and of each unweighted term without gradient."""

    share: Tensor
    parts: dict[str, Tensor]

    def totals(self, world: World = SINGLE) -> dict[str, Tensor]:
        """Return each term summed over ranks, a float64 scalar; terms that were not computed are left out."""
        names = list(self.parts)
        values = world.total(torch.stack([self.parts[name].double() for name in names]))
        return dict(zip(names, values, strict=True))


def objective(
    scores: Tensor,
    delta: Tensor | Increments | None,
    logit_scale: Tensor,
    config: ObjectiveConfig,
    world: World = SINGLE,
    false_negatives: Tensor | None = None,
) -> Terms:
    """Compute the loss of this rank's rows of scores [b, B] and increments (None for the plain baseline).

    ``logit_scale`` is exp of the learned scale. Terms of weight 0 are not computed. ``false_negatives`` [b, B]: pairs
    that InfoNCE leaves out of its negatives; the regularisers use every pair.
    """
    share = nce = info_nce(logit_scale * scores, world, false_negatives)
    parts = {"info_nce": nce.detach()}
    if delta is not None:
        for name, regulariser in REGULARISERS.items():
            settings = dict(getattr(config, name))
            if weight := settings.pop("weight"):
                term = regulariser(delta, **settings, world=world)
                share, parts[name] = share + weight * term, term.detach()
    return Terms(share, {"loss": share.detach(), **parts})

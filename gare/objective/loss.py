"""The whole objective: L_nce + beta L_ib + lambda_eps L_tr + lambda_dir L_dir (the method's section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare.config.objective import ObjectiveConfig
from gare.objective.increments import Increments
from gare.objective.nce import info_nce
from gare.objective.regularisers import direction_diversity, information_bottleneck, trust_region
from gare.objective.world import SINGLE, World

TERM_NAMES = ("loss", "info_nce", "information_bottleneck", "trust_region", "direction_diversity")


@dataclass(frozen=True)
class Terms:
    """This rank's share of the loss, and of each unweighted term without gradient."""

    share: Tensor
    parts: dict[str, Tensor]

    def totals(self, world: World = SINGLE) -> dict[str, float]:
        """Each term summed over ranks; a term that was not computed is left out."""
        names = list(self.parts)
        values = world.total(torch.stack([self.parts[name].double() for name in names])).tolist()
        return dict(zip(names, values, strict=True))


def objective(
    scores: Tensor,
    delta: Tensor | Increments | None,
    logit_scale: Tensor,
    config: ObjectiveConfig,
    world: World = SINGLE,
    false_negatives: Tensor | None = None,
) -> Terms:
    """The loss of this rank's rows of scores [b, B] and increments (None for the plain baseline).

    ``logit_scale`` is exp of the learned scale. Terms of weight 0 are not computed. ``false_negatives`` [b, B]: pairs
    that InfoNCE leaves out of its negatives; the regularisers take every pair.
    """
    share = nce = info_nce(logit_scale * scores, world, false_negatives)
    parts = {"info_nce": nce.detach()}
    if delta is not None:
        ib, tr, dd = config.information_bottleneck, config.trust_region, config.direction_diversity
        if ib.weight:
            term = information_bottleneck(
                delta,
                anchor=ib.anchor,
                reduction=ib.reduction,
                prior_sigma=ib.prior_sigma,
                normalised=ib.normalised,
                world=world,
            )
            share, parts["information_bottleneck"] = share + ib.weight * term, term.detach()
        if tr.weight:
            term = trust_region(delta, anchor=tr.anchor, bound=tr.bound, form=tr.form, kappa=tr.kappa, world=world)
            share, parts["trust_region"] = share + tr.weight * term, term.detach()
        if dd.weight:
            term = direction_diversity(delta, alpha=dd.alpha, anchor=dd.anchor, form=dd.form, world=world)
            share, parts["direction_diversity"] = share + dd.weight * term, term.detach()
    return Terms(share, {"loss": share.detach(), **parts})

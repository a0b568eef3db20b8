"""The three regularisers on increments (the paper's L_ib, L_tr and L_dir).

Each takes this rank's rows of increments (b texts, all V videos), as a tensor [b, V, D] or as ``Increments``, and
returns a scalar share; the shares over all ranks sum to the term, unweighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from gare.objective.increments import Increments, as_increments
from gare.objective.world import SINGLE, World

SD_FLOOR = 1e-6
LOG_FLOOR = 1e-8

Anchor = Literal["text", "video"]


def information_bottleneck(
    delta: Tensor | Increments,
    *,
    anchor: Anchor = "video",
    reduction: Literal["sum", "mean"] = "sum",
    prior_sigma: float = 1.0,
    normalised: bool = False,
    world: World = SINGLE,
) -> Tensor:
    """Compute L_ib: KL(N(mu, sd^2) || N(0, prior_sigma^2)) of an anchor's increments, per dimension.

    Statistics are over texts per video (anchor video) or over videos per text (anchor text), unbiased; ``reduction``
    applies to the dimensions, and anchors are averaged.
    """
    increments = as_increments(delta)
    if normalised:
        increments = increments.unit()
    if anchor == "video":
        mean, variance = increments.video_moments(world)
        own = world.own(increments.texts) if world.size > 1 else slice(None)
        mean, variance, anchors = mean[own], variance[own], increments.videos
    else:
        mean, variance = increments.text_moments()
        anchors = increments.texts * world.size
    sd = _safe_sqrt(variance) + SD_FLOOR
    kl = math.log(prior_sigma) - sd.log() + (sd.square() + mean.square()) / (2 * prior_sigma**2) - 0.5
    return (kl.sum() if reduction == "sum" else kl.mean(dim=-1).sum()) / anchors


def trust_region(
    delta: Tensor | Increments,
    *,
    anchor: Anchor = "text",
    bound: float = 0.5,
    form: Literal["hard", "smooth"] = "hard",
    kappa: float = 10.0,
    world: World = SINGLE,
) -> Tensor:
    """Compute L_tr: minus the mean over anchors of the unbiased variance of their increments' lengths.

    The variance is over videos per text (anchor text, as released) or over texts per video. hard: the term while it is
    at least -bound, else 0 (as released); smooth: a soft maximum of the term and -bound with sharpness kappa. The bound
    is compared with the mean over all ranks.
    """
    increments = as_increments(delta)
    lengths = increments.lengths()
    if anchor == "text":
        spread = (lengths - lengths.mean(dim=1, keepdim=True)).square().sum() / max(increments.videos - 1, 1)
        share = -spread / (increments.texts * world.size)
    else:
        count = increments.texts * world.size
        mean = world.sum(lengths.sum(dim=0)) / count
        share = -(lengths - mean).square().sum() / (max(count - 1, 1) * increments.videos)
    whole = world.total(share)
    if form == "hard":
        kept: Tensor = share * (whole >= -bound)
        return kept
    value = torch.logaddexp(kappa * whole, torch.full_like(whole, -kappa * bound)) / kappa
    slope = torch.sigmoid(kappa * (whole + bound))
    smooth: Tensor = value / world.size + slope * (share - share.detach())
    return smooth


def direction_diversity(
    delta: Tensor | Increments,
    *,
    alpha: float = 2.0,
    anchor: Anchor = "text",
    form: Literal["diversity", "orthogonality"] = "diversity",
    world: World = SINGLE,
) -> Tensor:
    """Compute L_dir: how alike a text's (anchor video: a video's) increments point, averaged over anchors.

    diversity: log(mean over ordered pairs, equal ones included, of exp(-alpha (1 - cos)) + 1e-8); orthogonality: mean
    over unequal pairs of cos^2. Costs B V^2 D; blocks of anchors bound the memory.
    """
    increments = as_increments(delta).unit()
    if anchor == "video":
        increments, anchors = increments.by_video(world), increments.videos
    else:
        anchors = increments.texts * world.size
    others = increments.videos

    def of_rows(unit_bVD: Tensor, _: int) -> Tensor:
        if form == "diversity":
            closeness: Tensor = _LogMeanCloseness.apply(unit_bVD, alpha)  # type: ignore[no-untyped-call]
            return closeness.sum()
        cosines = unit_bVD @ unit_bVD.mT
        squares = cosines.square().sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).square().sum(dim=1)
        return (squares / max(others * (others - 1), 1)).sum()

    return torch.stack(list(increments.by_rows(of_rows))).sum() / anchors


REGULARISERS: dict[str, Callable[..., Tensor]] = {
    term.__name__: term for term in (information_bottleneck, trust_region, direction_diversity)
}
"""The terms by the names of their sections in ``objective``, whose other settings are their arguments.

A term returns this rank's share, unweighted: the shares of all ranks sum to it.
"""


class _LogMeanCloseness(torch.autograd.Function):
    """log(mean_jk exp(-alpha (1 - <z_j, z_k>)) + 1e-8) of unit rows [b, V, D]: [b].

    Written by hand because the Gram matrix is symmetric: the backward pass needs one product where autograd needs two,
    and keeps one [b, V, V] tensor where autograd keeps several.
    """

    @staticmethod
    def forward(ctx: Any, unit_bVD: Tensor, alpha: float) -> Tensor:
        closeness = torch.bmm(unit_bVD, unit_bVD.mT).sub_(1).mul_(alpha).exp_()
        mean = closeness.mean(dim=(1, 2)) + LOG_FLOOR
        ctx.save_for_backward(unit_bVD, closeness, mean)
        ctx.alpha = alpha
        return mean.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        unit_bVD, closeness, mean = ctx.saved_tensors
        scale = gradients[0] * 2 * ctx.alpha / (mean * closeness.shape[1] ** 2)
        return torch.bmm(closeness, unit_bVD).mul_(scale[:, None, None]), None


def _safe_sqrt(x: Tensor) -> Tensor:
    """Return the square root, with gradient 0 at exactly 0 like torch.std, instead of NaN."""
    positive = x > 0
    return torch.where(positive, x, 1.0).sqrt() * positive

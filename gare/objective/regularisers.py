"""The three regularisers on increments (the paper's L_ib, L_tr and L_dir).

Each takes this rank's rows of increments [b, V, D] (b texts, all V videos) and returns a scalar share; the
shares over all ranks sum to the term, unweighted.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gare.objective.ranks import ALONE, Ranks

SD_FLOOR = 1e-6
LOG_FLOOR = 1e-8


def information_bottleneck(
    delta: Tensor,
    *,
    anchor: Literal["video", "text"] = "video",
    reduction: Literal["sum", "mean"] = "sum",
    prior_sigma: float = 1.0,
    normalised: bool = False,
    ranks: Ranks = ALONE,
) -> Tensor:
    """L_ib: KL(N(mu, sd^2) || N(0, prior_sigma^2)) of an anchor's increments, per dimension.

    Statistics are over texts per video (anchor video) or over videos per text (anchor text), unbiased; the
    dimensions are reduced as named and anchors averaged.
    """
    if normalised:
        delta = F.normalize(delta, dim=-1)
    texts, videos, _ = delta.shape
    all_texts = texts * ranks.size
    if anchor == "video":
        mean = ranks.sum(delta.sum(dim=0)) / all_texts
        # Two passes: one pass over squares loses three digits in float32.
        variance = ranks.sum((delta - mean).square().sum(dim=0)) / max(all_texts - 1, 1)
        own = ranks.own(texts) if ranks.size > 1 else slice(None)
        mean, variance, anchors = mean[own], variance[own], videos
    else:
        mean = delta.mean(dim=1)
        variance = (delta - mean[:, None]).square().sum(dim=1) / max(videos - 1, 1)
        anchors = all_texts
    sd = _safe_sqrt(variance) + SD_FLOOR
    kl = math.log(prior_sigma) - sd.log() + (sd.square() + mean.square()) / (2 * prior_sigma**2) - 0.5
    return (kl.sum() if reduction == "sum" else kl.mean(dim=-1).sum()) / anchors


def trust_region(
    delta: Tensor,
    *,
    bound: float = 0.5,
    form: Literal["hard", "smooth"] = "hard",
    kappa: float = 10.0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """L_tr: minus the mean over texts of the unbiased variance over videos of increment lengths.

    hard: the term while it is at least -bound, else 0 (as released); smooth: a soft maximum of the term and
    -bound with sharpness kappa. The bound is decided on the mean over all ranks.
    """
    texts, videos, _ = delta.shape
    lengths = delta.norm(dim=-1)
    spread = (lengths - lengths.mean(dim=1, keepdim=True)).square().sum(dim=1) / max(videos - 1, 1)
    share = -spread.sum() / (texts * ranks.size)
    whole = ranks.total(share)
    if form == "hard":
        kept: Tensor = share * (whole >= -bound)
        return kept
    value = torch.logaddexp(kappa * whole, torch.full_like(whole, -kappa * bound)) / kappa
    slope = torch.sigmoid(kappa * (whole + bound))
    smooth: Tensor = value / ranks.size + slope * (share - share.detach())
    return smooth


def direction_diversity(
    delta: Tensor,
    *,
    alpha: float = 2.0,
    form: Literal["diversity", "orthogonality"] = "diversity",
    ranks: Ranks = ALONE,
) -> Tensor:
    """L_dir: how alike one text's increments point, averaged over texts.

    diversity: log(mean over ordered video pairs, equal ones included, of exp(-alpha (1 - cos)) + 1e-8);
    orthogonality: mean over unequal pairs of cos^2.
    """
    texts, videos, _ = delta.shape
    unit = F.normalize(delta, dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    if form == "diversity":
        per_text = ((-alpha * (1 - cosines)).exp().mean(dim=(1, 2)) + LOG_FLOOR).log()
    else:
        squares = cosines.square().sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).square().sum(dim=1)
        per_text = squares / max(videos * (videos - 1), 1)
    return per_text.sum() / (texts * ranks.size)


def _safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at exactly 0 is 0, as torch.std has it, and not NaN."""
    positive = x > 0
    return torch.where(positive, x, 1.0).sqrt() * positive

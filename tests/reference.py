"""The equations of the paper written plainly, pair by pair, in float64: what the fast code is held against."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gare.evaluation.metrics.ranking import tiled_rankings


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / ((centred**2).mean() + 1e-5).sqrt() * weight + bias


def pair(text, frames, words, psi, *, corrected, context, sign, temperature, query_form="gap", radius=None):
    """Score, increment and pooled video of one pair; ``frames`` [F, D] and ``words`` [W, D] hold valid rows only.

    ``radius``: weight [max_frames] and bias of residual_scaled.
    """
    weights = torch.softmax(frames @ text / temperature, dim=0)
    pooled = weights @ frames
    query = sign * (frames.mean(dim=0) - text) if query_form == "gap" else text
    rows = frames if context == "frames" else words
    normed = torch.stack([layer_norm(r, psi["layer_norm1.weight"], psi["layer_norm1.bias"]) for r in rows])
    q = (
        psi["q_proj.weight"] @ layer_norm(query, psi["layer_norm1.weight"], psi["layer_norm1.bias"])
        + psi["q_proj.bias"]
    )
    k = normed @ psi["k_proj.weight"].T + psi["k_proj.bias"]
    v = normed @ psi["v_proj.weight"].T + psi["v_proj.bias"]
    attention = torch.softmax(k @ q / math.sqrt(len(q)), dim=0)
    a = psi["out_proj.weight"] @ (attention @ v) + psi["out_proj.bias"]
    y = layer_norm(a, psi["layer_norm2.weight"], psi["layer_norm2.bias"])
    u = layer_norm(
        y + psi["linear1.weight"] @ y + psi["linear1.bias"], psi["layer_norm3.weight"], psi["layer_norm3.bias"]
    )
    delta = psi["mean_proj.weight"] @ u + psi["mean_proj.bias"]
    if query_form in ("residual", "residual_scaled"):
        delta = frames.mean(dim=0) - delta
    if query_form == "residual_scaled":
        cosines = torch.stack([text @ f / (text.norm() * f.norm()) for f in frames])
        delta = torch.exp(radius[0][: len(cosines)] @ cosines + radius[1]) * delta / delta.norm()
    left, right = (text + delta, pooled) if corrected == "text" else (text, pooled + delta)
    return left @ right / (left.norm() * right.norm()), delta, pooled


def info_nce(logits: Tensor) -> Tensor:
    n = len(logits)
    total = torch.zeros((), dtype=logits.dtype)
    for i in range(n):
        total = total - torch.log(torch.exp(logits[i, i]) / torch.exp(logits[i]).sum())
        total = total - torch.log(torch.exp(logits[i, i]) / torch.exp(logits[:, i]).sum())
    return total / (2 * n)


def information_bottleneck(delta: Tensor, *, anchor: str, reduction: str, sigma: float, normalised: bool) -> Tensor:
    if normalised:
        delta = delta / delta.norm(dim=-1, keepdim=True)
    if anchor == "text":
        delta = delta.transpose(0, 1)
    terms = []
    for j in range(delta.shape[1]):
        mu, sd = delta[:, j].mean(dim=0), delta[:, j].std(dim=0) + 1e-6
        kl = torch.log(sigma / sd) + (sd**2 + mu**2) / (2 * sigma**2) - 0.5
        terms.append(kl.sum() if reduction == "sum" else kl.mean())
    return torch.stack(terms).mean()


def trust_region(delta: Tensor, *, bound: float) -> Tensor:
    value = -torch.stack([row.norm(dim=-1).var() for row in delta]).mean()
    return value if value >= -bound else value * 0


def direction_diversity(delta: Tensor, *, alpha: float) -> Tensor:
    terms = []
    for row in delta:
        z = [d / d.norm() for d in row]
        inner = torch.stack([torch.exp(-alpha * (1 - a @ b)) for a in z for b in z])
        terms.append(torch.log(inner.mean() + 1e-8))
    return torch.stack(terms).mean()


def dual_softmax(scores, scale):
    """Dual softmax of whole matrices [N, V]: for t2v and for v2t."""
    cosines = np.asarray(scores, np.float64)
    shares = []
    for axis in (0, 1):
        powers = np.exp(scale * cosines - (scale * cosines).max(axis=axis, keepdims=True))
        shares.append(powers / powers.sum(axis=axis, keepdims=True))
    return tuple(np.where(cosines < 0, cosines, cosines * share) for share in shares)


def querybank(scores, bank, beta):
    """QB-Norm of whole matrices: scores [Q, G] of queries, and of a bank of other queries [B, G]."""
    raw, known = np.asarray(scores, np.float64), np.asarray(bank, np.float64)
    active = np.isin(raw.argmax(axis=1), known.argmax(axis=1))
    highest = known.max(axis=0)
    log_total = beta * highest + np.log(np.exp(beta * (known - highest)).sum(axis=0))
    normalised = raw.copy()
    normalised[active] = np.exp(beta * raw[active] - log_total)
    return normalised


def rankings(scores, owner, *, ties="pessimistic"):
    """Rank a whole matrix of scores [N, V] of texts whose videos ``owner`` [N] come in any order."""
    order = np.argsort(owner, kind="stable")
    found = tiled_rankings(lambda texts, videos: scores[order[texts], videos], owner[order], scores.shape[1], ties=ties)
    in_order = np.empty_like(found["t2v"].ranks)
    in_order[order] = found["t2v"].ranks
    return found | {"t2v": replace(found["t2v"], ranks=in_order, video=np.asarray(owner, np.int64))}

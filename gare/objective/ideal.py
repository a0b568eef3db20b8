"""Compute the increment that theory asks for: one step of steepest descent to a sphere (the method's section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class IdealIncrement:
    """``delta`` [B, V, D]: D' = start - step gradient; ``start`` [B, V, D]: D inside the trust region.

    ``gradient`` [B, V, D]: g_ij, of the row loss L_i in D_ij at ``start``; ``step`` [B, V]: the distance along -g, 0
    where g is 0; ``radius`` [B, V]: eps.
    """

    delta: Tensor
    start: Tensor
    gradient: Tensor
    step: Tensor
    radius: Tensor


@torch.no_grad()
def ideal_increment(
    text: Tensor,
    video: Tensor,
    delta: Tensor,
    logit_scale: Tensor | float,
    *,
    corrected: Literal["text", "video"] = "text",
    radius: Tensor | float | None = None,
    match: Tensor | None = None,
) -> IdealIncrement:
    """Return the minimiser of the linearised row loss over ||D'_ij|| <= eps along -g_ij, for every pair.

    With u the corrected vector (t + D, or p + D with ``corrected`` video), o the other one, s their cosine, P the
    softmax of row i and y = 1 at its match:

        g = exp(logit_scale) (P - y) (o/||o|| - s u/||u||)/||u||
        step = (<D,g> + sqrt(<D,g>^2 + ||g||^2 (eps^2 - ||D||^2))) / ||g||^2,    ||D - step g|| = eps

    ``text`` [B, D], ``video`` [B, V, D] (as scored: pooled or mean) or [V, D], ``delta`` [B, V, D] (zeros for the
    uncorrected state), ``logit_scale``: exp of the learned scale. ``radius``: eps, broadcast to [B, V]; by default
    the largest ||D_ij|| of each row. An increment longer than eps is scaled to eps first, and g is taken there.
    ``match`` [B]: the column of each row's match, by default its own number. No gradients; nothing is reduced.
    """
    lengths = delta.norm(dim=-1)
    longest = lengths.max(dim=1, keepdim=True).values
    eps = longest if radius is None else torch.as_tensor(radius, dtype=longest.dtype, device=longest.device)
    eps = eps.expand_as(lengths)
    start = delta * (eps / lengths.clamp_min(_tiny(delta))).clamp_max(1.0)[..., None]
    gradient = row_gradient(text, video, start, logit_scale, corrected=corrected, match=match)
    size = gradient.norm(dim=-1)
    moves = size > _tiny(size)
    unit = gradient / torch.where(moves, size, 1.0)[..., None]
    along = (start * unit).sum(dim=-1)
    room = (eps.square() - start.square().sum(dim=-1)).clamp_min(0.0)
    root = (along.square() + room).sqrt()
    # The same root of the quadratic, from whichever form adds numbers of one sign.
    backward = room / torch.where(along < 0, root - along, 1.0)
    distance = torch.where(along < 0, backward, along + root) * moves
    return IdealIncrement(
        delta=start - distance[..., None] * unit,
        start=start,
        gradient=gradient,
        step=distance / torch.where(moves, size, 1.0),
        radius=eps,
    )


def row_gradient(
    text: Tensor,
    video: Tensor,
    delta: Tensor,
    logit_scale: Tensor | float,
    *,
    corrected: Literal["text", "video"] = "text",
    match: Tensor | None = None,
) -> Tensor:
    """Gradient g [B, V, D] in D_ij of L_i = -log softmax_j(exp(logit_scale) s_ij) at the match of row i.

    Summed over j it is L_i's gradient in the corrected text (the pooling's own dependence on the text left out).
    Arguments as for ``ideal_increment``.
    """
    rows = text[:, None].expand_as(delta)
    video = video.expand_as(delta)
    moved, other = (rows + delta, video) if corrected == "text" else (video + delta, rows)
    length = moved.norm(dim=-1, keepdim=True)
    moved, other = moved / length, other / other.norm(dim=-1, keepdim=True)
    scores = (moved * other).sum(dim=-1)
    weight = (logit_scale * scores).softmax(dim=1)
    places = torch.arange(len(text), device=text.device)
    weight[places, places if match is None else match] -= 1
    gradient: Tensor = (logit_scale * weight)[..., None] * (other - scores[..., None] * moved) / length
    return gradient


def _tiny(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).tiny)

"""Train the pair head without a vector per pair (the method's section 6): the same loss for a fraction of the work.

Per context (a video's frames, or a text's words) psi's output lies in the span of its L positions and two shared rows.
Each pair then needs only an attention over L and a few products with L x L Gram matrices.
Dropout is drawn per context and shared by all its pairs. Pairs of one text and several videos (with words as context:
of one video and several texts) are then drawn as independently as in the dense form. The dense form draws a mask per
pair, which adds to the spread within a context; that part is known in closed form (``PairSpread``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gare.objective.increments import FactorisedIncrements, PairSpread
from gare.scoring.head import PairDropout, PairScores, as_float, masked_mean
from gare.scoring.increment.cell import PairCell, cancels, centred, norm
from gare.scoring.increment.dense import DenseHead
from gare.scoring.increment.psi import NORM_EPS, Increment


@dataclass(frozen=True)
class _Context:
    """Per context: keys [C, L, D] (centred, LN1's gain included), their bias [C, L], and psi's stages as bases.

    ``rows`` and ``inner`` [C, L + 1, D]: LN2's output, and the vectors that dropout acts on; ``rate``: of that dropout.
    """

    keys: Tensor
    bias: Tensor
    values: Tensor
    rows: Tensor
    inner: Tensor
    hidden: Tensor
    increments: Tensor
    rate: float


def factorised_scores(
    head: DenseHead,
    text_BD: Tensor,
    frames_VFD: Tensor,
    frame_mask_VF: Tensor,
    words_BWD: Tensor | None = None,
    word_mask_BW: Tensor | None = None,
    dropout: PairDropout | None = None,
) -> PairScores:
    """Score every text against every video, in float32, with gradients.

    The result equals that of ``head`` up to rounding if nothing is dropped; pairs whose sums cancel are computed from
    their vectors. ``dropout.first_text`` only matters with words as context.
    Raises ConfigError for settings whose increments do not factorise.
    """
    cell = head.cell
    cell.check_factorises()
    with torch.autocast(device_type=text_BD.device.type, enabled=False):
        text, frames = as_float(text_BD), as_float(frames_VFD)
        mean_VD = masked_mean(frames, frame_mask_VF)
        base_VGD, base_mask = cell.bases(frames, frame_mask_VF, mean_VD)
        dots_VBG = torch.matmul(text, base_VGD.mT)
        weights_VBG = cell.pooling(dots_VBG, base_mask[:, None], dim=-1)
        products = {
            "text_base": (weights_VBG * dots_VBG).sum(-1).T,
            "base_square": _quadratic(weights_VBG, torch.bmm(base_VGD, base_VGD.mT)).T,
            "text_square": text.square().sum(-1)[:, None],
        }
        if head.psi is None:
            return PairScores(products["text_base"] / (norm(products["text_square"]) * norm(products["base_square"])))
        if cell.config.context == "frames":
            increments = _increments(head.psi, cell, text, mean_VD, frames, frame_mask_VF, dropout, per_text=False)
        else:
            words, mask = cell.words(words_BWD, word_mask_BW)
            increments = _increments(head.psi, cell, text, mean_VD, as_float(words), mask, dropout, per_text=True)
        scores, square, parts = cell.cosines(
            delta_square=increments.squares().clamp(min=0),
            text_delta=_dot_texts(increments, text),
            base_delta=_dot_bases(increments, base_VGD, weights_VBG),
            **products,
        )
        pairs = pairs_where(cancels(square, parts))
        direct = direct_cosines(pairs, cell, text, base_VGD, weights_VBG, increments)
        return PairScores(replaced(scores, pairs, direct), increments)


def _increments(
    psi: Increment,
    cell: PairCell,
    text_BD: Tensor,
    mean_VD: Tensor,
    context_CLD: Tensor,
    mask_CL: Tensor,
    dropout: PairDropout | None,
    *,
    per_text: bool,
) -> FactorisedIncrements:
    """Return coefficients of all pairs over their context's basis: of the text's words (``per_text``), or the video."""
    context = _context(psi, context_CLD, mask_CL, dropout, first=dropout.first_text if dropout and per_text else 0)

    def to_keys(vectors: Tensor, *, own: bool) -> Tensor:
        """Return products with every context's keys: [C, 1, L] of its own vector, or [C, N, L] of all others."""
        return torch.bmm(vectors[:, None], context.keys.mT) if own else torch.matmul(vectors, context.keys.mT)

    text_part = to_keys(text_BD, own=per_text)
    scale_BV, doubtful = cell.query_scale(text_BD, mean_VD)
    if cell.config.query == "text":
        logits_CNL = text_part.expand(-1, len(mean_VD) if per_text else -1, -1)
    else:
        video_part, pairs = to_keys(mean_VD, own=not per_text), pairs_where(doubtful)
        near = direct_logits(pairs, mean_VD, text_BD, context.keys, pairs[:, 0 if per_text else 1])
        places = pairs if per_text else pairs.flip(1)
        logits_CNL = cell.config.gap_sign * replaced(video_part - text_part, places, near)
    scale_CN = scale_BV if per_text else scale_BV.T
    coefficients, spread = _coefficients(psi, context, logits_CNL * scale_CN[..., None])
    if not per_text:
        coefficients = coefficients.transpose(0, 1)
    return FactorisedIncrements(coefficients, context.increments, per_text=per_text, spread=spread)


def _context(
    psi: Increment, context_CLD: Tensor, mask_CL: Tensor, dropout: PairDropout | None, *, first: int
) -> _Context:
    """Compute psi's algebra once per context; masked positions have no weight and zero rows."""
    keep = mask_CL[..., None]
    normed = psi.layer_norm1(context_CLD.masked_fill(~keep, 0))
    # Two D x D products per position instead of four: multiplying weights costs less than multiplying all positions.
    query, gain = psi.q_proj.weight.T, psi.layer_norm1.weight
    to_keys, keys_shift = query @ psi.k_proj.weight, query @ psi.k_proj.bias
    to_bias = to_keys.T @ psi.layer_norm1.bias + psi.k_proj.weight.T @ psi.q_proj.bias
    bias = normed @ to_bias + keys_shift @ psi.layer_norm1.bias + psi.k_proj.bias @ psi.q_proj.bias
    keys = F.linear(normed, centred((gain[:, None] * to_keys).T).T, centred(gain * keys_shift))
    to_values, values_shift = psi.out_proj.weight @ psi.v_proj.weight, psi.out_proj(psi.v_proj.bias)
    values = F.linear(normed, centred(to_values.T).T, centred(values_shift)).masked_fill(~keep, 0)
    rows = torch.cat([psi.layer_norm2.weight * values, psi.layer_norm2.bias.expand(len(values), 1, -1)], dim=1)
    inner = F.linear(rows, psi.linear1.weight)
    inner = torch.cat([inner[:, :-1], inner[:, -1:] + psi.linear1.bias], dim=1)
    factors = None if dropout is None else _context_dropout(dropout, first, values)
    hidden = centred(rows + (inner if factors is None else inner * factors))
    rate = 0.0 if factors is None or dropout is None else dropout.rate
    bias = bias.masked_fill(~mask_CL, float("-inf"))
    return _Context(keys, bias, values, rows, inner, hidden, _projected(psi, hidden), rate)


def _projected(psi: Increment, hidden_CKD: Tensor) -> Tensor:
    """Apply LN3 and the last projection to a basis [C, K, D], and append their shared row: [C, K + 1, D]."""
    norm, project = psi.layer_norm3, psi.mean_proj
    shared = F.linear(norm.bias, project.weight, project.bias).expand(len(hidden_CKD), 1, -1)
    return torch.cat([F.linear(norm.weight * hidden_CKD, project.weight), shared], dim=1)


def _coefficients(
    psi: Increment, context: _Context, logits_CNL: Tensor
) -> tuple[Tensor, Callable[[], PairSpread] | None]:
    """Return coefficients [C, N, L + 2] over the basis, through both inner LayerNorms; with dropout, their spread."""
    dim = context.values.shape[-1]
    attention = ((logits_CNL + context.bias[:, None]) / math.sqrt(dim)).softmax(-1)
    variance = _quadratic(attention, torch.bmm(context.values, context.values.mT) / dim)
    first = F.pad(attention / (variance + NORM_EPS).sqrt()[..., None], (0, 1), value=1.0)
    variance = _quadratic(first, torch.bmm(context.hidden, context.hidden.mT) / dim)
    coefficients = F.pad(first / (variance + NORM_EPS).sqrt()[..., None], (0, 1), value=1.0)
    return coefficients, None if context.rate == 0 else partial(_pair_spread, psi, context, first)


def _pair_spread(psi: Increment, context: _Context, first_CNL: Tensor) -> PairSpread:
    """Return means and spread of increments as if dropout were drawn per pair.

    A pair's noise is LN3 and the last projection applied to (mask - 1) * hidden, whose variance is rate / (1 - rate)
    hidden^2 per dimension. LN3 divides by a sum over D dimensions, which is replaced by its mean.
    """
    dim, odds = context.inner.shape[-1], context.rate / (1 - context.rate)
    hidden = centred(context.rows + context.inner)
    noise = odds * (1 - 1 / dim) * torch.bmm(context.inner, context.inner.mT)
    variance = _quadratic(first_CNL, (torch.bmm(hidden, hidden.mT) + noise) / dim)
    weights = first_CNL / (variance + NORM_EPS).sqrt()[..., None]
    gains = odds * centred(psi.mean_proj.weight * psi.layer_norm3.weight).square()
    return PairSpread(F.pad(weights, (0, 1), value=1.0), _projected(psi, hidden), weights, context.inner, gains)


def _dot_texts(increments: FactorisedIncrements, text_BD: Tensor) -> Tensor:
    """Return <t_i, D_ij>, [B, V]."""
    coefficients, basis = increments.coefficients_BVK, increments.basis_CKD
    if increments.per_text:
        return torch.bmm(coefficients, torch.bmm(basis, text_BD[..., None]))[..., 0]
    return (coefficients * torch.einsum("vkd,bd->bvk", basis, text_BD)).sum(-1)


def _dot_bases(increments: FactorisedIncrements, base_VGD: Tensor, weights_VBG: Tensor) -> Tensor:
    """Return <D_ij, sum_g w_ijg base_jg>, [B, V]; blocks of [b, V, D] with words as context, none with frames."""
    if not increments.per_text:
        cross_VKG = torch.bmm(increments.basis_CKD, base_VGD.mT)
        return (torch.bmm(increments.coefficients_BVK.transpose(0, 1), cross_VKG) * weights_VBG).sum(-1).T
    weights_BVG = weights_VBG.transpose(0, 1)

    def block(rows_bVD: Tensor, start: int) -> Tensor:
        pooled = torch.einsum("bvg,vgd->bvd", weights_BVG[start : start + len(rows_bVD)], base_VGD)
        return (rows_bVD * pooled).sum(-1)

    return torch.cat(list(increments.by_rows(block)))


def _context_dropout(dropout: PairDropout, first: int, values_CLD: Tensor) -> Tensor | None:
    """Draw one mask [C, 1, D] per context from its global number."""
    contexts, _, dim = values_CLD.shape
    shared = PairDropout(dropout.rate, dropout.seed, dropout.step, first_text=first)
    return shared.mask(values_CLD.new_empty(contexts, 1, dim))


def _quadratic(rows_CNK: Tensor, gram_CKK: Tensor) -> Tensor:
    """Multiply row, Gram matrix and row, at least 0, [C, N]."""
    return (torch.bmm(rows_CNK, gram_CKK) * rows_CNK).sum(-1).clamp(min=0)


GATHERED_NUMBERS = 2**24
"""Most numbers of one gathered tensor: 64 MB in float32."""


def pairs_where(doubtful: Tensor) -> Tensor:
    """Return the pairs [P, 2] at which a matrix is true; a GPU is waited for."""
    return doubtful.detach().nonzero()


def direct_logits(pairs_P2: Tensor, mean_VD: Tensor, text_BD: Tensor, keys_CLD: Tensor, context_P: Tensor) -> Tensor:
    """Return <vbar_j - t_i, keys> [P, L] of the pairs (text, video), each with the keys of its own context."""

    def block(part: slice) -> Tensor:
        text_of, video_of = pairs_P2[part].unbind(1)
        return torch.einsum("pd,pld->pl", mean_VD[video_of] - text_BD[text_of], keys_CLD[context_P[part]])

    return _in_blocks(block, len(pairs_P2), keys_CLD[:1])


def direct_cosines(
    pairs_P2: Tensor,
    cell: PairCell,
    text_BD: Tensor,
    base_VGD: Tensor,
    weights_VBG: Tensor,
    increments: FactorisedIncrements,
) -> Tensor:
    """Return cosines [P] of the pairs (text, video) from vectors: increment and pooled video are formed explicitly."""
    basis = increments.basis_CKD

    def block(part: slice) -> Tensor:
        text_of, video_of = pairs_P2[part].unbind(1)
        coefficients = increments.coefficients_BVK[text_of, video_of]
        delta = torch.einsum("pk,pkd->pd", coefficients, basis[text_of if increments.per_text else video_of])
        base = torch.einsum("pg,pgd->pd", weights_VBG[video_of, text_of], base_VGD[video_of])
        return F.cosine_similarity(*cell.sides(text_BD[text_of], base, delta), dim=-1)

    return _in_blocks(block, len(pairs_P2), basis[:1])


def replaced(values: Tensor, pairs_P2: Tensor, with_P: Tensor) -> Tensor:
    """Return ``values`` [N, M, ...] with those of some pairs replaced."""
    return values.index_put(tuple(pairs_P2.unbind(1)), with_P) if len(pairs_P2) else values


def _in_blocks(block: Callable[[slice], Tensor], pairs: int, gathered: Tensor) -> Tensor:
    """Apply ``block`` to all pairs, a part at a time: one pair gathers as much memory as ``gathered``."""
    size = max(1, GATHERED_NUMBERS // gathered.numel())
    cuts = [slice(start, start + size) for start in range(0, pairs, size)]
    parts = [checkpoint(block, cut, use_reentrant=False, preserve_rng_state=False) for cut in cuts]
    return torch.cat(parts) if parts else gathered.new_empty(0)

"""Precompute the factors of factorised scoring: maps of psi, factors of each context, factors of each video."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gare.scoring.factors import Rows
from gare.scoring.head import masked_mean
from gare.scoring.increment.cell import PairCell
from gare.scoring.increment.psi import NORM_EPS, Increment


@dataclass(frozen=True)
class PsiMaps:
    """psi as affine maps of LN1(context), [D, D] and [D] each, multiplied out once in float64.

    ``keys``: Kc = center(g1 (Wk x + bk) Wq), so that its inner product with a query needs no LayerNorm gain.
    ``key_bias``: the part of a logit that does not depend on the query. ``values``: O. ``hidden``: A. ``increments``:
    P. ``hidden_shared``, ``shared_a``, ``shared_b``: the rows of A and P that all contexts share.
    """

    norm: tuple[Tensor, Tensor]
    keys: tuple[Tensor, Tensor]
    key_bias: tuple[Tensor, Tensor]
    values: tuple[Tensor, Tensor]
    hidden: tuple[Tensor, Tensor]
    increments: tuple[Tensor, Tensor]
    hidden_shared: Tensor
    shared_a: Tensor
    shared_b: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, psi: Increment, dtype: torch.dtype) -> PsiMaps:
        """Compute the maps of psi's present weights; they are rounded to ``dtype`` at the end."""
        parameters = {name: parameter.double() for name, parameter in psi.named_parameters()}

        def weight(name: str) -> Tensor:
            return parameters[f"{name}.weight"]

        def bias(name: str) -> Tensor:
            return parameters[f"{name}.bias"]

        gain_1, gain_2, gain_3 = (weight(f"layer_norm{n}") for n in (1, 2, 3))
        query = weight("q_proj").T
        key, key_const = query @ weight("k_proj"), query @ bias("k_proj")
        plain = key.T @ bias("layer_norm1") + weight("k_proj").T @ bias("q_proj")
        plain_const = key_const @ bias("layer_norm1") + bias("k_proj") @ bias("q_proj")
        value = _centred(weight("out_proj") @ weight("v_proj"))
        value_const = _centred(weight("out_proj") @ bias("v_proj") + bias("out_proj"))
        skip = weight("linear1") + torch.eye(len(query), dtype=torch.float64, device=query.device)
        to_hidden, to_increment = _centred(skip * gain_2), weight("mean_proj") * gain_3
        hidden, hidden_const = to_hidden @ value, to_hidden @ value_const
        hidden_shared = _centred(skip @ bias("layer_norm2") + bias("linear1"))

        def pair(matrix: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
            return matrix.to(dtype), vector.to(dtype)

        return cls(
            norm=pair(gain_1, bias("layer_norm1")),
            keys=pair(_centred(gain_1[:, None] * key), _centred(gain_1 * key_const)),
            key_bias=pair(plain[None], plain_const[None]),
            values=pair(value, value_const),
            hidden=pair(hidden, hidden_const),
            increments=pair(to_increment @ hidden, to_increment @ hidden_const),
            hidden_shared=hidden_shared.to(dtype),
            shared_a=(to_increment @ hidden_shared).to(dtype),
            shared_b=(weight("mean_proj") @ bias("layer_norm3") + bias("mean_proj")).to(dtype),
        )


@dataclass(frozen=True)
class ContextFactors(Rows):
    """One row per context sequence.

    ``keys`` [C, L, D]: the product with a vector of the other side is its part of the logits; sign and 1/sqrt(D) are
    included. ``own_logits`` [C, L]: the part of the context's own side. ``key_bias`` [C, L]: -inf where masked.
    ``increments`` [C, L, D]: P without its two shared rows. ``mixing`` [C, 3L + 3, L]: triangular factors of the three
    Gram matrices, stacked, so that every norm is that of ``mixing @ attention``. ``corner`` [C, 4]: what the shared
    rows add to them.
    """

    keys: Tensor
    own_logits: Tensor
    key_bias: Tensor
    increments: Tensor
    mixing: Tensor
    corner: Tensor

    @classmethod
    def of(
        cls,
        maps: PsiMaps,
        context_CLD: Tensor,
        mask_CL: Tensor,
        own_CD: Tensor,
        cell: PairCell,
        storage: torch.dtype | None = None,
    ) -> ContextFactors:
        """Compute the factors of context sequences with mask; ``own_CD``: that side's vector (vbar, or t for words)."""
        dim = context_CLD.shape[-1]
        normed = F.layer_norm(context_CLD.masked_fill(~mask_CL[..., None], 0), (dim,), *maps.norm, NORM_EPS)
        keep = mask_CL[..., None].to(normed.dtype)
        keys, values, hidden, rows = (
            F.linear(normed, *map_) * keep for map_ in (maps.keys, maps.values, maps.hidden, maps.increments)
        )
        of_video, of_text = cell.query_parts()
        own_sign, other_sign = (of_video, of_text) if cell.config.context == "frames" else (of_text, of_video)
        own = torch.bmm(keys.double(), own_CD.double()[..., None])[..., 0] * (own_sign / math.sqrt(dim))
        bias = F.linear(normed, *maps.key_bias)[..., 0] / math.sqrt(dim)
        of_values = triangular(values) / math.sqrt(dim)
        of_hidden = triangular(hidden, maps.hidden_shared) / math.sqrt(dim)
        of_rows = triangular(rows, maps.shared_b, maps.shared_a)
        mixing = torch.cat([of_values, of_hidden[:, :, 1:], of_rows[:, :, 2:]], dim=1)
        corner = torch.stack([of_hidden[:, 0, 0], of_rows[:, 0, 0], of_rows[:, 0, 1], of_rows[:, 1, 1]], dim=1)
        dtype, kept = context_CLD.dtype, storage or context_CLD.dtype
        return cls(
            keys=(keys * (other_sign / math.sqrt(dim))).to(kept),
            own_logits=own.to(dtype),
            key_bias=bias.masked_fill(~mask_CL, float("-inf")),
            increments=rows.to(kept),
            mixing=mixing.to(dtype),
            corner=corner.to(dtype),
        )


@dataclass(frozen=True)
class VideoFactors(Rows):
    """One row per video: its part of the cosine, and its frames for the pairs scored densely.

    ``frames`` [V, F, D], zero where masked; ``frame_mask`` [V, F]; ``mean`` [V, D]. ``pool_gram`` [V, F', F']:
    triangular, ``||p|| = ||pool_gram @ weights||``; ``shared`` [V, 2, F']: P's shared rows times the frames. F' is F,
    or 1 with model.video_base mean: pooling over the one vector vbar.
    """

    frames: Tensor
    frame_mask: Tensor
    mean: Tensor
    pool_gram: Tensor
    shared: Tensor

    @classmethod
    def of(
        cls,
        maps: PsiMaps | None,
        frames_VFD: Tensor,
        mask_VF: Tensor,
        cell: PairCell,
        storage: torch.dtype | None = None,
    ) -> VideoFactors:
        """Compute the factors of frame vectors with mask; ``storage`` is the type that the frames are kept in."""
        frames = frames_VFD.masked_fill(~mask_VF[..., None], 0)
        mean = masked_mean(frames, mask_VF)
        base, _ = cell.bases(frames, mask_VF, mean)
        if maps is None:
            shared = base.new_zeros(len(base), 2, base.shape[1])
        else:
            shared = torch.stack([base @ maps.shared_b, base @ maps.shared_a], dim=1)
        gram = triangular(base).to(base.dtype)
        return cls(frames.to(storage or frames.dtype), mask_VF, mean, gram, shared)

    def bases(self, cell: PairCell) -> tuple[Tensor, Tensor]:
        """Return vectors [V, F', D] and mask [V, F'] that are pooled into the scored video vector."""
        return cell.bases(self.frames.to(self.mean.dtype), self.frame_mask, self.mean)


def triangular(rows_CRD: Tensor, *shared_D: Tensor) -> Tensor:
    """Return an upper triangular float64 R [C, S, S], R'R the Gram matrix of the rows, the shared vectors first.

    A norm is then that of R @ coefficients, which loses eps / ratio of its parts, while the quadratic form of the Gram
    matrix itself would lose eps / ratio squared. Gram and Cholesky run in float64. Because equal rows are common, 4 S
    eps of each row's own square is added to the diagonal (its own, because a small row may be scaled up later). A
    matrix that still has no factor becomes NaN, and its pairs are then scored densely.
    """
    first = [vector.expand(len(rows_CRD), 1, -1) for vector in shared_D]
    rows = torch.cat([*first, rows_CRD], dim=1).double()
    gram = rows @ rows.mT
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += 4 * rows.shape[1] * torch.finfo(torch.float64).eps * diagonal + 1e-60
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)
    return factor.masked_fill_((failed != 0)[:, None, None], float("nan"))


def _centred(x: Tensor) -> Tensor:
    """Subtract the mean over the outputs, the first axis."""
    return x - x.mean(dim=0, keepdim=True)

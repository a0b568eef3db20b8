"""Two inner products per pair in place of the increment: D0, psi's answer to uniform attention."""

from __future__ import annotations

from torch import Tensor

from gare.scoring.increment.cell import PairCell
from gare.scoring.increment.psi import Increment


def uniform_increment(psi: Increment, context_CLD: Tensor, mask_CL: Tensor) -> Tensor:
    """D0 [C, D]: the increment at uniform attention over each context's valid positions, whatever the query."""
    keep = mask_CL[..., None]
    values = psi.v_proj(psi.layer_norm1(context_CLD.masked_fill(~keep, 0))) * keep.to(context_CLD.dtype)
    mean = values.sum(dim=1) / mask_CL.sum(dim=1, keepdim=True).to(values.dtype)
    y = psi.layer_norm2(psi.out_proj(mean))
    increments: Tensor = psi.mean_proj(psi.layer_norm3(y + psi.linear1(y)))
    return increments


def first_stage_scores(text_BD: Tensor, mean_VD: Tensor, delta: Tensor, cell: PairCell, *, of_texts: bool) -> Tensor:
    """Cosines [B, V] with D0 in place of the increment and vbar in place of the pooled video.

    ``delta`` is D0 of the videos [V, D], or ``of_texts`` [B, D].
    """
    square, own = delta.square().sum(-1), text_BD if of_texts else mean_VD
    along = (own * delta).sum(-1)
    if of_texts:
        square, text_delta, base_delta = square[:, None], along[:, None], delta @ mean_VD.T
    else:
        text_delta, base_delta = text_BD @ delta.T, along
    scores, _ = cell.cosines(
        text_square=text_BD.square().sum(-1)[:, None],
        base_square=mean_VD.square().sum(-1),
        delta_square=square,
        text_base=text_BD @ mean_VD.T,
        text_delta=text_delta,
        base_delta=base_delta,
    )
    return scores

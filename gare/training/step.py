"""One optimiser step over the global batch, each rank computing its own rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from gare.common.errors import RunError
from gare.config import Config
from gare.data.batches import Batch
from gare.model.factorised import factorised_scores
from gare.model.gare import GareModel
from gare.model.head import PairDropout
from gare.objective.ranks import Ranks
from gare.objective.total import Terms, objective


def forward(model: GareModel, batch: Batch, config: Config, ranks: Ranks, step: int) -> Terms:
    """This rank's share of the loss: its texts against the videos of all ranks (the method's section 7)."""
    device = model.clip.logit_scale.device
    ids, token_mask = batch.token_ids.to(device), batch.token_mask.to(device)
    mask = batch.frame_mask.to(device)
    text, words = model.encode_texts(ids, token_mask)
    frames = model.encode_frames(model.normalise(batch.frames.to(device)), mask)
    dropout = PairDropout(config.model.dropout, config.train.seed, step, first_text=ranks.rank * len(text))
    pairs = (text, ranks.gather(frames), ranks.gather_constant(mask.int()).bool(), words, token_mask, dropout)
    if config.train.increments == "factorised":
        made = factorised_scores(model.head, *pairs)
        return objective(made.scores, made.increments, model.logit_scale, config.objective, ranks)
    scored = model.head(*pairs)
    return objective(scored.scores, scored.delta, model.logit_scale, config.objective, ranks)


def train_step(
    model: GareModel, optimiser: Optimizer, batch: Batch, config: Config, ranks: Ranks, step: int
) -> dict[str, float]:
    """One update; returns the loss, its terms, the gradient norm and the logit scale, equal on all ranks.

    Raises RunError on every rank, before anything is updated, when the loss or a gradient is not finite.
    """
    model.train()
    optimiser.zero_grad(set_to_none=True)
    terms = forward(model, batch, config, ranks, step)
    # The shares sum to the loss, so summing gradients over ranks is exact.
    torch.autograd.backward([terms.share])
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    sum_gradients(parameters, ranks)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.train.max_grad_norm)
    values = terms.totals(ranks)
    if not (torch.isfinite(norm) and torch.isfinite(torch.tensor(values["loss"]))):
        raise RunError(
            f"At step {step} the loss is {values['loss']:.4g} and the gradient norm {float(norm):.4g}: training has "
            f"diverged, nothing was updated. Lower train.lr_new or train.lr_clip, or look at the videos of this batch: "
            f"{', '.join(batch.video_ids[:8])}{', ...' if len(batch.video_ids) > 8 else ''}."
        )
    optimiser.step()
    model.clamp_logit_scale()
    return values | {"grad_norm": float(norm), "logit_scale": float(model.logit_scale.detach())}


def sum_gradients(parameters: list[Tensor], ranks: Ranks) -> None:
    """Sum every gradient over ranks, as one flat buffer; a parameter a rank did not use counts as zero."""
    if ranks.size == 1:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    flat = ranks.total(flat)
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()

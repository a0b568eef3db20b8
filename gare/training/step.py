"""Take one optimiser step over the global batch, each rank with its own rows; find the causes of non-finite values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from gare.common.errors import RunError
from gare.config import Config
from gare.data.batches import Batch
from gare.model.gare import GareModel
from gare.objective.loss import Terms, known_pairs, objective
from gare.objective.world import World
from gare.scoring.head import PairDropout, PairScores, blocked_scores
from gare.training.encoding import Encoded, backward_through
from gare.training.scaler_and_average import Ema

SMALLEST_SCALE = 1.0


NAMED_VIDEOS = 8
KINDS = ("embeddings", "scores", "gradients")


def pair_loss(model: GareModel, made: Encoded, batch: Batch, config: Config, world: World, step: int) -> Terms:
    """Return this rank's share of the loss: its texts against the videos of all ranks (the method's section 7)."""
    scored = score(model, made, batch, config, world, step)
    false_negatives = None if batch.groups is None else known_pairs(batch.groups.to(made.text.device), world)
    return objective(scored.scores, scored.increments, model.logit_scale, config.objective, world, false_negatives)


def score(model: GareModel, made: Encoded, batch: Batch, config: Config, world: World, step: int) -> PairScores:
    """Return cosines [b, B] of this rank's texts with the videos of all ranks, and the increments behind them."""
    device = made.text.device
    mask, token_mask = batch.frame_mask.to(device), batch.token_mask.to(device)
    dropout = PairDropout(config.model.dropout, config.train.seed, step, first_text=world.rank * len(made.text))
    frames, frame_mask = world.gather(made.frames), world.gather_constant(mask.int()).bool()
    pairs = (made.text, frames, frame_mask, made.words, token_mask, dropout)
    if config.train.increments == "factorised":
        return model.head.factorised(*pairs)
    if config.train.chunk is not None:
        return blocked_scores(model.head, *pairs)
    scored: PairScores = model.head(*pairs)
    return scored


def backward(
    model: GareModel, batch: Batch, config: Config, world: World, step: int, scale: float | Tensor = 1.0
) -> tuple[Terms, Encoded]:
    """Add this rank's gradients of ``scale`` times its share of the loss; return its unscaled terms and embeddings."""
    terms: list[Terms] = []

    def loss(made: Encoded) -> Tensor:
        terms.append(pair_loss(model, made, batch, config, world, step))
        return terms[-1].share * scale

    _, made = backward_through(model, batch, config, loss)
    return terms[-1], made


def train_step(
    model: GareModel,
    optimiser: Optimizer,
    batch: Batch,
    config: Config,
    world: World,
    step: int,
    *,
    scaler: torch.amp.GradScaler | None = None,
    ema: Ema | None = None,
) -> dict[str, float]:
    """Make one update; return the loss, its terms and gradient norms, equal on all ranks.

    ``scaler``: of fp16; as usual, a step whose scaled gradients overflow is skipped and lowers the scale (``skipped``
    is then 1, ``loss_scale`` the scale of this step). Raises RunError on every rank, before anything is updated, if the
    loss or a gradient is not finite on any of them. The device is waited for once, to find that out.
    """
    model.train()
    optimiser.zero_grad(set_to_none=True)
    one = torch.ones((), device=model.clip.logit_scale.device)
    scale = None if scaler is None else scaler.scale(one)
    terms, made = backward(model, batch, config, world, step, 1.0 if scale is None else scale)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    # The shares sum to the loss, so summing gradients over ranks is exact.
    own_norm = sum_gradients(parameters, world)
    if scaler is not None:
        scaler.unscale_(optimiser)
    of_groups = gradient_norms(optimiser)
    norms = {"grad_norm": torch.nn.utils.clip_grad_norm_(parameters, config.train.max_grad_norm), **of_groups}
    values, lengths, scales = numbers(terms.totals(world), norms, {} if scale is None else {"loss_scale": scale})
    norm = lengths["grad_norm"]
    overflow = scales.get("loss_scale", 0.0) > SMALLEST_SCALE and not math.isfinite(norm)
    if not math.isfinite(values["loss"]) or not (overflow or math.isfinite(norm)):

        def logits() -> Tensor:
            return model.logit_scale * score(model, made, batch, config, world, step).scores

        raise _diverged(step, values["loss"], norm, suspects(batch, made, logits, own_norm, world))
    if scaler is not None:
        scaler.update()
    if overflow:
        return values | {"skipped": 1.0} | scales
    optimiser.step()
    model.clamp_logit_scale()
    if ema is not None:
        ema.update()
    return values | lengths | ({"skipped": 0.0} if scales else {}) | scales


def numbers(*named: dict[str, Tensor]) -> list[dict[str, float]]:
    """Return scalars of one device as numbers, all in one copy."""
    every = iter(torch.stack([value.detach().double() for part in named for value in part.values()]).tolist())
    return [{name: next(every) for name in part} for part in named]


def _diverged(step: int, loss: float, norm: float, look_at: str) -> RunError:
    return RunError(
        f"At step {step} the loss is {loss:.4g} and the gradient norm {norm:.4g}: training has diverged, nothing was "
        f"updated. Lower train.lr_new or train.lr_clip, or look at {look_at}."
    )


def sum_gradients(parameters: list[Tensor], world: World) -> Tensor | None:
    """Sum every gradient over ranks, as one flat buffer; a parameter that a rank did not use counts as zero.

    Returns the norm of this rank's own gradient; None if there is only one rank.
    """
    if world.size == 1:
        return None
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    own_norm: Tensor = torch.linalg.vector_norm(flat)
    flat = world.total(flat)
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()
    return own_norm


def gradient_norms(optimiser: Optimizer) -> dict[str, Tensor]:
    """Return the norm of each parameter group's gradient, a scalar, by ``grad_norm/`` and the group's name."""
    norms = {}
    for group in optimiser.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else group["params"][0].new_zeros(())
        norms[f"grad_norm/{group['name']}"] = norm
    return norms


def suspects(batch: Batch, made: Encoded, logits: Callable[[], Tensor], own_norm: Tensor | None, world: World) -> str:
    """Describe the pairs or ranks to look at, with the same text on every rank. Call on all ranks.

    The first of these that exists on any rank: pairs whose embeddings are not finite; pairs whose row of ``logits`` [b,
    B] is not; ranks whose gradient is not (``own_norm``: of this rank's before the sum); else the whole batch.
    """
    with torch.no_grad():
        finite = torch.isfinite(logits()).all(dim=1)
    own = {
        "embeddings": _named(batch, made.finite_rows()),
        "scores": _named(batch, finite),
        "gradients": [] if own_norm is None or torch.isfinite(own_norm) else batch.video_ids,
        "batch": batch.video_ids,
    }
    every = [json.loads(text) for text in world.gather_texts(json.dumps(own))]
    for kind in KINDS:
        found = {rank: names[kind] for rank, names in enumerate(every) if names[kind]}
        if found:
            where = f", on worker {', '.join(map(str, found))}" if len(found) < len(every) else ""
            return f"the videos whose {kind} are not finite{where}: {_listed(found.values())}"
    return f"the videos of this batch: {_listed(names['batch'] for names in every)}"


def _named(batch: Batch, finite: Tensor) -> list[str]:
    return [name for name, fine in zip(batch.video_ids, finite.tolist(), strict=True) if not fine]


def _listed(names: Iterable[list[str]]) -> str:
    every = [name for of_rank in names for name in of_rank]
    return ", ".join(every[:NAMED_VIDEOS]) + (", ..." if len(every) > NAMED_VIDEOS else "")

"""Parameter groups, the learning-rate schedule and the two optimisers (the method's section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gare.config.experiment import TrainConfig
from gare.model.gare import GareModel


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Return the factor of the peak rate after ``step`` of ``total`` steps: linear rise, then half a cosine."""
    x = step / total
    return x / warmup if x < warmup else 0.5 * (1 + math.cos(math.pi * x))


def freeze(model: GareModel, config: TrainConfig) -> None:
    """Turn off the gradients of the parts in ``train.freeze``; the method's section 4 names the first."""
    clip, ends = model.clip, model.family.ends(model.clip)
    parts = {
        "patch_embedding": [clip.vision_model.embeddings.patch_embedding],
        "token_embedding": [clip.text_model.embeddings.token_embedding],
        "text_tower": [clip.text_model, ends[0]],
        "image_tower": [clip.vision_model, ends[1]],
    }
    for name in config.freeze:
        for part in parts[name]:
            part.requires_grad_(requires_grad=False)


def parameter_groups(model: GareModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Group trained parameters by peak learning rate (CLIP's, everything else's) and by weight decay.

    adamw decays matrices only: no biases, norms, embedding tables or logit_scale. bert_adam, as released, decays all
    but names with "bias".
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    undecayed = _undecayed_names(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = "bias" in name if config.optimizer == "bert_adam" else name in undecayed
            groups.setdefault((name.startswith("clip."), not plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": f"{'clip' if of_clip else 'new'}/{'decay' if decayed else 'no_decay'}",
            "peak_lr": config.lr_clip if of_clip else config.lr_new,
            "lr": 0.0,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (of_clip, decayed), parameters in sorted(groups.items())
    ]


def make_optimiser(model: GareModel, config: TrainConfig) -> Optimizer:
    """Make the optimiser of the settings, with learning rates still 0."""
    groups = parameter_groups(model, config)
    if config.optimizer == "bert_adam":
        return BertAdam(groups, betas=(config.beta1, config.beta2), eps=config.eps)
    on_cuda = model.clip.logit_scale.is_cuda
    return AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True if on_cuda else None)


def staged_factor(step: int, stages: Sequence[int], warmup: float) -> float:
    """Return ``learning_rate_factor`` within the stage that contains ``step``; 0 after the last stage."""
    for total in stages:
        if step < total:
            return learning_rate_factor(step, total, warmup)
        step -= total
    return 0.0


def set_learning_rates(optimiser: Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor


class BertAdam(Optimizer):
    """The released rule: Adam without bias correction, weight decay decoupled.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr (m / (sqrt(v) + eps) + decay p).
    """

    def __init__(self, params: Any, *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
                mean, square = state["mean"], state["square"]
                mean.lerp_(p.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * p
                p.sub_(group["lr"] * update)


def _undecayed_names(model: nn.Module) -> set[str]:
    names = {"clip.logit_scale", "temporal.positions"}
    # A single vector that patches are pooled into or by, which is not added to anything.
    names |= {"clip.vision_model.embeddings.class_embedding", "clip.vision_model.head.probe"}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.LayerNorm | nn.Embedding):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names | {name for name, _ in model.named_parameters() if name.endswith("bias")}

"""Settings of the optimisation (the method's section 4)."""

from __future__ import annotations

from typing import Literal

from gare.config.base import Section, key


class TrainConfig(Section):
    """Batch, schedule and optimiser."""

    global_batch: int = key(128, "pairs per optimiser step over all workers", unit="pairs", ge=2)
    epochs: int = key(5, "passes over the training split", ge=1)
    seed: int = key(42, "of initial weights, data order and dropout", ge=0, lt=2**63)
    optimizer: Literal["adamw", "bert_adam"] = key(
        "adamw", "AdamW with no decay on biases, norms, embeddings and logit_scale; or the released rule"
    )
    increments: Literal["dense", "factorised"] = key(
        "dense",
        "psi for every pair with its own dropout as published, or by exact factorised algebra, several times faster, "
        "with one dropout mask per context",
    )
    lr_clip: float = key(1e-7, "peak learning rate of CLIP's own parameters", gt=0)
    lr_new: float = key(1e-4, "peak learning rate of everything else", gt=0)
    beta1: float = key(0.9, "decay of the gradient's mean", ge=0, lt=1)
    beta2: float = key(0.98, "decay of the gradient's square", ge=0, lt=1)
    eps: float = key(1e-6, "added to the denominator", gt=0)
    weight_decay: float = key(0.2, "decoupled weight decay", ge=0)
    warmup: float = key(0.1, "share of all steps over which the rate rises linearly", ge=0, lt=1)
    max_grad_norm: float = key(1.0, "gradients are clipped to this global norm", gt=0)
    freeze_patch_embedding: bool = key(True, "keep CLIP's patch convolution as it is")
    select_by: str = key("t2v/R@1", "dev metric the best checkpoint is chosen by (higher is better)")

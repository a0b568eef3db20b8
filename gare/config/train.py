"""Settings of the optimisation (the method's section 4)."""

from __future__ import annotations

from typing import Literal

from gare.config.base import Section, key

Part = Literal["patch_embedding", "token_embedding", "text_tower", "image_tower"]


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
        "psi for every pair as published, or by exact factorised algebra, several times faster: psi's dropout is then "
        "drawn per context, and the bottleneck gets the spread of a draw per pair in closed form",
    )
    lr_clip: float = key(1e-7, "peak learning rate of CLIP's own parameters", gt=0)
    lr_new: float = key(1e-4, "peak learning rate of everything else", gt=0)
    beta1: float = key(0.9, "decay of the gradient's mean", ge=0, lt=1)
    beta2: float = key(0.98, "decay of the gradient's square", ge=0, lt=1)
    eps: float = key(1e-6, "added to the denominator", gt=0)
    weight_decay: float = key(0.2, "decoupled weight decay", ge=0)
    warmup: float = key(0.1, "share of all steps over which the rate rises linearly", ge=0, lt=1)
    max_grad_norm: float = key(1.0, "gradients are clipped to this global norm", gt=0)
    freeze: list[Part] = key(
        ["patch_embedding"],
        "parts of CLIP that stay as they are: its patch convolution (as published), its token embedding, a whole tower",
    )
    chunk: int | None = key(
        None,
        "pairs a worker encodes at once, to fit the memory; the loss is always that of the whole batch; null: all",
        unit="pairs",
        ge=1,
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32", "of the towers' arithmetic; the pair head, the losses and the weights are float32"
    )
    tf32: bool = key(
        False,
        "on GPUs that have it, float32 products and convolutions of factors cut to 10 bits, which is faster",
    )
    deterministic: bool = key(
        False,
        "deterministic algorithms alone, for the same bits from the same run on the same GPU; slower there",
    )
    checkpoint_activations: bool = key(False, "encode each layer of CLIP again in the backward pass, to save memory")
    compile: bool = key(False, "compile CLIP's towers by torch.compile, which takes minutes at the start")
    ema: float | None = key(
        None, "decay of a running average of the weights, which is then what is evaluated and saved", gt=0, lt=1
    )
    init_from: str | None = key(
        None, "checkpoint, or run with one, whose weights training begins with; only its weights are taken over"
    )
    select_by: str = key("t2v/R@1", "dev metric the best checkpoint is chosen by (higher is better)")

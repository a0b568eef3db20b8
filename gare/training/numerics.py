"""Set the numerics of this process: threads, TF32, deterministic algorithms, precision of the towers.

Only the towers compute in ``train.precision``; the pair head, the logits, the losses and the weights stay in float32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from gare.common.errors import RunError
from gare.config import Config
from gare.config.experiment import TrainConfig
from gare.model.gare import GareModel

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACE = ":4096:8"
"""cuBLAS is deterministic only with a workspace of a fixed size, which it reads when CUDA starts."""


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_numerics(config: Config) -> None:
    """Set torch's threads, TF32 and choice of algorithms according to the settings."""
    torch.set_num_threads(config.runtime.cpu_threads)
    # torch's own default is TF32 for convolutions and not for products.
    torch.backends.cuda.matmul.allow_tf32 = config.train.tf32
    torch.backends.cudnn.allow_tf32 = config.train.tf32
    if config.train.deterministic:
        os.environ.setdefault(CUBLAS_WORKSPACE, WORKSPACE)
    torch.use_deterministic_algorithms(config.train.deterministic)


@contextmanager
def numerics(config: Config) -> Iterator[None]:
    """Apply ``set_numerics`` while the block runs, then restore the previous state.

    Raises RunError if an operation has to be deterministic and cannot be on this device.
    """
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        set_numerics(config)
        yield
    except RuntimeError as error:
        refused = _not_deterministic(str(error)) if config.train.deterministic else None
        if refused is None:
            raise
        raise RunError(refused) from error
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
        torch.use_deterministic_algorithms(deterministic)


def _not_deterministic(message: str) -> str | None:
    """Return the message for an operation that torch refused as not deterministic; None for other errors."""
    if CUBLAS_WORKSPACE in message:
        return (
            f"cuBLAS is deterministic only where {CUBLAS_WORKSPACE} is {WORKSPACE} before the process starts; here it "
            f"is {os.environ.get(CUBLAS_WORKSPACE)!r}. Set it so, or set train.deterministic=false."
        )
    operation, found, _ = message.partition(" does not have a deterministic implementation")
    return f"{operation} has no deterministic algorithm here; set train.deterministic=false." if found else None


def tower_precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the towers encode."""
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(device_type=device.type, dtype=DTYPES[config.precision])


def prepare_towers(model: GareModel, config: TrainConfig) -> None:
    """Turn on activation checkpointing and compilation of CLIP's towers, if the settings say so."""
    if config.checkpoint_activations:
        for tower in (model.clip.text_model, model.clip.vision_model):
            tower.encoder.gradient_checkpointing = True
    if config.compile:
        # Compiled in place, so that weights keep their names; batches differ in their number of valid frames.
        for tower in (model.clip.text_model, model.clip.vision_model):
            tower.compile(dynamic=True)

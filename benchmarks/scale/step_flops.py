"""Count the floating-point operations of a training step of gare, with torch on tensors without data."""

from __future__ import annotations

from dataclasses import dataclass

from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gare.config import Config
from gare.config.tree import with_overrides
from gare.launch.dry_run import memory as counted
from gare.model.clip_source import inspect_clip
from gare.model.gare import outline
from gare.training.encoding import encode
from gare.training.optimiser import freeze
from gare.training.step import backward

VIDEOS = 128
RANKS = (1, 8, 16, 64)


@dataclass(frozen=True)
class StepFlops:
    """Operations of one rank's step, forward and backward, and related counts.

    ``encoders``: those of the towers and the temporal transformer; the rest is the pair head and the objective.
    ``parameters``: of the model; ``trained``: the trained ones.
    Only multiplications of matrices count, with two operations for each product and sum. Attention's own products,
    which torch does not count on a CPU, are about 1 % of ViT-B/32 in addition.
    """

    rank: float
    encoders: float
    parameters: int
    trained: int


def step_flops(config: Config, ranks: int, videos: int = VIDEOS) -> StepFlops:
    """Count a step of one of so many ranks with ``videos`` videos each, all clips having ``data.frames`` frames."""
    config = with_overrides(config, {"train.global_batch": videos * ranks})
    architecture = inspect_clip(config.model.clip).architecture
    with FakeTensorMode():
        model = outline(architecture, config.model, device="cpu")
        freeze(model, config.train)
        model.train()
        batch = counted._batch(config, model, videos)  # noqa: SLF001 - the dry run's own stand-ins
        step, encoders = FlopCounterMode(display=False), FlopCounterMode(display=False)
        with counted._Alive([]), step:  # noqa: SLF001 - it gives indexing by a mask a shape
            backward(model, batch, config, counted._OneOf(ranks), step=0)  # noqa: SLF001
        with counted._Alive([]), encoders:  # noqa: SLF001
            made = encode(model, batch, config)
            (made.text.sum() + made.frames.sum() + made.words.sum()).backward()
    parameters = list(model.parameters())
    return StepFlops(
        step.get_total_flops(),
        encoders.get_total_flops(),
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )

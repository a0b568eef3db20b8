"""Find the device memory of a training step by running it on tensors with shapes and no data.

The real code of ``training.step`` runs forward and backward in a FakeTensorMode, while a mode around it counts the
storages that are alive. So nothing is counted twice or forgotten, whatever the settings; it cannot know what the
device's own kernels and allocator need in addition.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from gare.config import Config
from gare.data.batches import Batch
from gare.model.gare import GareModel, outline
from gare.objective.world import World
from gare.training.numerics import prepare_towers
from gare.training.optimiser import freeze
from gare.training.step import backward


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker. The parts do not exist at the same time, so they do not sum to ``peak``.

    ``text_tower`` to ``pairs``: what is kept for the backward pass, ``pairs`` being the pair head and the objective.
    ``optimiser``: its state and the average of ``train.ema``. ``batches``: this worker's batch and those read ahead,
    uint8. ``pixels``: the frames that are encoded at once, as input of the image tower. ``rows``: this worker's texts
    and videos.
    """

    rows: int
    weights: int
    gradients: int
    optimiser: int
    batches: int
    pixels: int
    text_tower: int
    image_tower: int
    temporal: int
    pairs: int
    peak: int


def memory_of_step(architecture: Any, config: Config, workers: int) -> Memory:
    """Count a step of one of ``workers`` workers; every clip has all of ``data.frames`` frames.

    ``architecture``: a CLIP's config. Raises what the step itself would raise for settings that do not fit.
    """
    rows = config.train.global_batch // workers
    with FakeTensorMode():
        model = outline(architecture, config.model, device="cpu")
        freeze(model, config.train)
        prepare_towers(model, config.train.model_copy(update={"compile": False}))
        model.train()
        batch = _batch(config, model, rows)
        parameters = list(model.parameters())
        trained = _bytes(p for p in parameters if p.requires_grad)
        weights = _bytes([*parameters, *model.buffers()])
        with _Alive([*parameters, *model.buffers()]) as alive, _kept_by_stage(model) as kept:
            backward(model, batch, config, _OneOf(workers), step=0)
    optimiser = (2 if config.train.ema is None else 3) * trained
    batches = batch.frames.numel() * batch.frames.element_size() * (1 + config.runtime.read_ahead)
    # Gradients are summed over workers as one flat copy and its reduced copy; AdamW holds the square roots of a group.
    at_update = trained * (2 if workers > 1 else 1)
    return Memory(
        rows=rows,
        weights=weights,
        gradients=trained,
        optimiser=optimiser,
        batches=batches,
        pixels=batch.frames[: config.train.chunk].numel() * torch.float32.itemsize,
        **kept,
        peak=optimiser + batches + max(alive.peak, weights + trained + at_update),
    )


def _batch(config: Config, model: GareModel, rows: int) -> Batch:
    side, data = model.image_size, config.data
    return Batch(
        frames=torch.empty(rows, data.frames, 3, side, side, dtype=torch.uint8),
        frame_mask=torch.ones(rows, data.frames, dtype=torch.bool),
        token_ids=torch.zeros(rows, data.words, dtype=torch.int64),
        token_mask=torch.ones(rows, data.words, dtype=torch.bool),
        video_ids=[],
        valid=[data.frames] * rows,
    )


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def _kept_by_stage(model: GareModel) -> Iterator[dict[str, int]]:
    """Yield the bytes kept for the backward pass by stage, filled in during the forward pass."""
    stages = ["text_tower", "image_tower", "temporal", "pairs"]
    ends = [*model.family.ends(model.clip), model.temporal]
    kept = dict.fromkeys(stages, 0)
    known = {id(tensor.untyped_storage()) for tensor in [*model.parameters(), *model.buffers()]}
    reached = passes = 0

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # With train.chunk the pieces follow each other, and the first one is the longest.
        if id(storage) not in known and (passes < 1 or stages[reached] == "pairs"):
            known.add(id(storage))
            weakref.finalize(storage, known.discard, id(storage))
            kept[stages[reached]] += storage.nbytes()
        return tensor

    def begin(*_: Any) -> None:
        nonlocal reached
        reached = 0

    def end_of(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal reached, passes
            reached = number + 1
            passes += number + 1 == len(ends) and torch.is_grad_enabled()

        return hook

    handles = [module.register_forward_hook(end_of(number)) for number, module in enumerate(ends)]
    handles.append(model.clip.text_model.register_forward_pre_hook(begin))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A counter of the bytes of storages that operations make and that are still alive, and of their peak."""

    def __init__(self, there: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in there:
            self._note(tensor)

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.nonzero.default:  # without data: none of the pairs is doubtful
            return torch.empty(0, args[0].ndim, dtype=torch.int64, device=args[0].device)
        done = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(done):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return done

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name = id(storage)
        if name in self._sizes:
            return
        self._sizes[name] = storage.nbytes()
        self.now += self._sizes[name]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, name)

    def _gone(self, name: int) -> None:
        self.now -= self._sizes.pop(name)


class _OneOf(World):
    """The first of several workers, which assumes that the others hold the same."""

    def __init__(self, size: int) -> None:
        self.size = size

    @override
    def sum(self, x: Tensor) -> Tensor:
        return x if self.size == 1 else x.clone()

    @override
    def gather(self, x: Tensor) -> Tensor:
        return x if self.size == 1 else x.repeat(self.size, *[1] * (x.ndim - 1))

    @override
    def gather_constant(self, x: Tensor) -> Tensor:
        return self.gather(x.detach())

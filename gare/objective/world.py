"""Connect the objective to the other ranks: each holds its rows of every pair matrix, and sums over texts cross ranks.

``World`` is a single process, where every collective is the identity (``SINGLE``); ``TorchWorld`` is a
``torch.distributed`` group. All ranks hold the same number of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class World:
    """A single process."""

    rank = 0
    size = 1

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks; its gradient is summed over ranks too."""
        return x

    def total(self, x: Tensor) -> Tensor:
        """Sum over ranks, without gradient."""
        return x.detach()

    def max(self, x: Tensor) -> Tensor:
        """Elementwise maximum over ranks, without gradient."""
        return x.detach()

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate along the first axis in rank order; its gradient is summed over ranks."""
        return x

    def gather_constant(self, x: Tensor) -> Tensor:
        """Concatenate along the first axis in rank order, without gradient."""
        return x.detach()

    def share(self, x: Tensor) -> None:
        """Replace ``x`` by rank 0's values, without gradient."""

    def share_text(self, text: str) -> str:
        """Return rank 0's text on every rank."""
        return text

    def gather_texts(self, text: str) -> list[str]:
        """Return every rank's text, in rank order."""
        return [text]

    def own(self, rows: int) -> slice:
        """Return the position of this rank's rows among those of all ranks."""
        return slice(self.rank * rows, (self.rank + 1) * rows)


class TorchWorld(World):
    """The default group of ``torch.distributed``, already initialised."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    @override
    def sum(self, x: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
        return summed

    @override
    def total(self, x: Tensor) -> Tensor:
        return _all_reduced(x)

    @override
    def max(self, x: Tensor) -> Tensor:
        copy = x.detach().clone().contiguous()
        torch.distributed.all_reduce(copy, op=torch.distributed.ReduceOp.MAX)
        return copy

    @override
    def gather(self, x: Tensor) -> Tensor:
        gathered: Tensor = _Gather.apply(x, self)  # type: ignore[no-untyped-call]
        return gathered

    @override
    def gather_constant(self, x: Tensor) -> Tensor:
        x = x.detach().contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)]
        torch.distributed.all_gather(parts, x)
        return torch.cat(parts)

    @override
    def share(self, x: Tensor) -> None:
        whole = x.detach().contiguous()
        torch.distributed.broadcast(whole, src=0)
        x.detach().copy_(whole)

    @override
    def share_text(self, text: str) -> str:
        # Sent as plain bytes, because torch's own object collectives unpickle what they receive.
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        torch.distributed.broadcast(length, src=0)
        if self.rank != 0:
            data = torch.empty(int(length), dtype=torch.uint8)
        torch.distributed.broadcast(data, src=0)
        return bytes(data.numpy()).decode()

    @override
    def gather_texts(self, text: str) -> list[str]:
        data = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        lengths = self.gather_constant(torch.tensor([len(data)])).tolist()
        padded = torch.zeros(1, max(lengths), dtype=torch.uint8)
        padded[0, : len(data)] = data
        rows = self.gather_constant(padded)
        return [bytes(row[: length - 1].numpy()).decode() for row, length in zip(rows, lengths, strict=True)]


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced: every rank's loss depends on every rank's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return _all_reduced(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return _all_reduced(gradients[0])


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is summed over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: TorchWorld) -> Tensor:
        ctx.own = world.own(len(x))
        return world.gather_constant(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(gradients[0])[ctx.own], None


def _all_reduced(x: Tensor) -> Tensor:
    copy = x.detach().clone().contiguous()
    torch.distributed.all_reduce(copy)
    return copy


SINGLE = World()

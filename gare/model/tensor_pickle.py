"""Run the pickles of torch.save and torch.jit.save as data: plain values, tensors, and inert module objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gare.common.plain_pickle import Global, Machine, RefusedError

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = frozenset({"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"})
_KINDS = {
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch.jit._pickle", "restore_type_tag"): "tagged",
    ("torch", "device"): "device",
}


@dataclass(frozen=True)
class StorageType(Global):
    """The name of a kind of storage, with the dtype of its numbers."""

    dtype: torch.dtype


@dataclass
class Module:
    """An inert stand-in for a TorchScript module: its attributes, no code."""

    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """One flat block of numbers in the archive."""

    flat: Tensor


class TensorMachine(Machine):
    """A machine that runs one program. ``storage`` resolves a persistent id, ``tensor`` rebuilds a tensor."""

    # An archive of the largest CLIP takes a fifth of them, and each may leave a container in memory.
    max_steps = 500_000

    def __init__(self, storage: Callable[[Any], Storage], tensor: Callable[[tuple[Any, ...]], Tensor]) -> None:
        super().__init__()
        self._storage, self._rebuild = storage, tensor

    def allowed(self, module: str, name: str) -> Global:
        """Allow the names of modules, storages and the few functions that only build data."""
        if module.partition(".")[0] == "__torch__":
            return Global("module")
        if module == "torch" and name in _DTYPES:
            return StorageType("storage", _DTYPES[name])
        if module == "torch.jit._pickle" and name in _LISTS:
            return Global("list")
        kind = _KINDS.get((module, name))
        return Global(kind) if kind else super().allowed(module, name)

    def make(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """Make a tensor, or the plain value that torch wrapped."""
        match function.kind, arguments:
            case "tensor", _:
                return self._rebuild(arguments)
            case "parameter", (Tensor() as tensor, *_):
                return tensor
            case "list", (list() as items,):
                return items
            case "tagged", (value, str()):
                return value
            case "device", (str() as device, *_):
                return device
        return super().make(function, arguments)

    def special(self, name: str) -> None:
        """Handle the numbers of a tensor, and module objects with their state."""
        stack = self._stack
        match name:
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "NEWOBJ":
                arguments, kind = stack.pop(), stack.pop()
                if not isinstance(kind, Global) or kind.kind != "module" or not isinstance(arguments, tuple):
                    raise RefusedError("it builds an object that is not a module")
                stack.append(Module())
            case "BUILD":
                _build(stack.pop(), stack[-1])
            case _:
                super().special(name)


def _build(state: Any, target: Any) -> None:
    """Set the attributes of a module; those of a mapping (torch's own _metadata) are not needed."""
    if isinstance(target, Module):
        target.attributes = state if type(state) is dict else {}
    elif type(target) is not dict:
        raise RefusedError("it sets the state of something that is not a module")

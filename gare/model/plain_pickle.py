"""Pickle's stack machine without the power to import, call or build anything but data.

Written for the pickles of torch.save and torch.jit.save: numbers, strings, plain containers, tensors, and the module
objects of a TorchScript archive, which become inert bags of their attributes. ``pickletools`` splits the program into
steps; the ``pickle`` module is not used.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

MAX_STEPS = 10_000_000
MAX_NAME = 1_000

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


class RefusedError(Exception):
    """The pickle asks for something that is not data."""


@dataclass(frozen=True)
class Global:
    """A name the program may use: what to do with it, and the dtype of a storage."""

    kind: Literal["mapping", "tensor", "parameter", "storage", "list", "tagged", "device", "module"]
    dtype: torch.dtype | None = None


@dataclass
class Module:
    """An inert stand-in of a TorchScript module: its attributes, no code."""

    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """One flat block of numbers of the archive."""

    flat: Tensor


def _allowed(module: str, name: str) -> Global:
    """What a global name stands for; RefusedError when it is not data."""
    if module.partition(".")[0] == "__torch__":
        return Global("module")
    if module == "torch" and name in _DTYPES:
        return Global("storage", _DTYPES[name])
    if module == "torch.jit._pickle" and name in _LISTS:
        return Global("list")
    known: dict[tuple[str, str], Global] = {
        ("collections", "OrderedDict"): Global("mapping"),
        ("torch._utils", "_rebuild_tensor_v2"): Global("tensor"),
        ("torch._utils", "_rebuild_parameter"): Global("parameter"),
        ("torch.jit._pickle", "restore_type_tag"): Global("tagged"),
        ("torch", "device"): Global("device"),
    }
    found = known.get((module, name))
    if found is None:
        shown = " ".join(f"{module}.{name}".split())[:100]
        raise RefusedError(f"it asks for {shown}, which is not data, and nothing was run")
    return found


_MARK = object()
_NAMING = frozenset({"GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD"})


class Machine:
    """Runs one program. ``storage`` resolves a persistent id, ``tensor`` rebuilds a tensor from its arguments."""

    def __init__(self, storage: Callable[[Any], Storage], tensor: Callable[[tuple[Any, ...]], Tensor]) -> None:
        self._storage, self._rebuild = storage, tensor
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """The value a pickle describes; RefusedError when it is not plain data or not a pickle."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
                if count > MAX_STEPS:
                    raise RefusedError("its pickle has too many steps")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise RefusedError(f"its pickle is damaged ({type(error).__name__})") from None
        raise RefusedError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        """Numbers, strings and the memo."""
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE" | "NONE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[name])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "MARK":
                stack.append(_MARK)
            case _ if name in _NAMING:
                self._named(name, argument)
            case _:
                self._container(name)

    def _named(self, name: str, argument: Any) -> None:
        """Steps that name something outside the pickle, or build what was named."""
        stack = self._stack
        match name:
            case "GLOBAL":
                stack.append(_allowed(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise RefusedError("it names something by what is no string")
                stack.append(_allowed(module, attribute))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._reduce(function, arguments))
            case "NEWOBJ":
                arguments, kind = stack.pop(), stack.pop()
                if not isinstance(kind, Global) or kind.kind != "module" or not isinstance(arguments, tuple):
                    raise RefusedError("it builds an object that is not a module")
                stack.append(Module())
            case "BUILD":
                self._build(stack.pop(), stack[-1])

    def _container(self, name: str) -> None:
        """Tuples, lists and mappings."""
        stack = self._stack
        match name:
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                if len(stack) < size:
                    raise RefusedError("its pickle is damaged (an empty stack)")
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self._since_mark()
                if not isinstance(stack[-1], list):
                    raise RefusedError("it appends to what is no list")
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark()
                self._set_items(stack[-1], items)
            case _:
                raise RefusedError(f"its pickle uses {name}, which plain data does not need")

    def _since_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                items = self._stack[at + 1 :]
                del self._stack[at:]
                return items
        raise RefusedError("its pickle is damaged (no mark)")

    @staticmethod
    def _set_items(target: Any, items: list[Any]) -> None:
        if type(target) is not dict or len(items) % 2:
            raise RefusedError("it sets items of what is no mapping")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float):
                raise RefusedError(f"it has a mapping with a key that is a {type(key).__name__}")
            if isinstance(key, str) and len(key) > MAX_NAME:
                raise RefusedError(f"a name in it has {len(key)} characters")
            target[key] = value

    def _reduce(self, function: Any, arguments: Any) -> Any:
        """A call, of the few that only build data."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise RefusedError("it calls something that is not the building of data")
        match function.kind, arguments:
            case "mapping", ():
                return {}
            case "mapping", (list() as pairs,):
                built: dict[Any, Any] = {}
                self._set_items(built, [part for pair in pairs for part in (pair if len(pair) == 2 else ())])
                return built
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
        raise RefusedError(f"it builds a {function.kind} from something else than that takes")

    @staticmethod
    def _build(state: Any, target: Any) -> None:
        """The attributes of a module; those of a mapping (torch's own _metadata) are not needed."""
        if isinstance(target, Module):
            target.attributes = state if type(state) is dict else {}
        elif type(target) is not dict:
            raise RefusedError("it sets the state of what is no module")

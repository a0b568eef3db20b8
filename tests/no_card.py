"""CUDA without a card: run code on tensors without data whose device is ``cuda``, and note where it would wait for it.

Operations are checked by torch's FakeTensorMode, which refuses tensors of two devices, as CUDA does. Python sees the
device ``cuda``; torch's own C++ sees ``meta``, because a torch without CUDA can neither switch to a CUDA device nor run
a backward pass there. So autocast changes no types here, and ``torch.compile`` and the real streams are not covered.
Everything that needs a value gets a made-up one: True, 1, or every index.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, META = torch.device("cuda", 0), torch.device("meta")
ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
NUMPY = {
    kind: torch.empty(0, dtype=kind).numpy().dtype
    for kind in (torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float32, torch.float64)
}
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class WrongGeneratorError(RuntimeError):
    """Random numbers on one device from the generator of another."""


class Generators(torch.Generator):
    """What makes generators: those of the card are the host's, and are remembered."""

    of_card: ClassVar[dict[int, torch.Generator]] = {}

    def __new__(cls, device: Any = "cpu") -> Any:
        made = GENERATOR()
        if torch.device(device).type == "cuda":
            cls.of_card[made._cdata] = made
        return made


GENERATOR = torch.Generator


class Card(FakeTensorMode):
    """Fake tensors of the device ``cuda``, for a torch that has none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return META if args[0].fake_device.type == "cuda" else args[0].fake_device
        return super().__torch_dispatch__(func, types, args, _not_meta(kwargs))


class Waits(TorchDispatchMode):
    """A list of the places where the host waits for the card: ``file:line operation``."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def note(self, what: str) -> None:
        """Note the line of the project that does this."""
        lines = [f for f in traceback.extract_stack(sys._getframe(1)) if Path(f.filename).is_relative_to(ROOT / "gare")]
        where = f"{Path(lines[-1].filename).relative_to(ROOT)}:{lines[-1].name}" if lines else "?"
        self.places.append(f"{where} {what}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = _not_meta(kwargs)
        _check_generator(kwargs)
        if func is aten._local_scalar_dense.default:
            return self._value(args[0])
        if func is aten.nonzero.default:
            self._waits_for(args[0], "nonzero")
            return torch.zeros(args[0].numel(), args[0].ndim, dtype=torch.int64, device=args[0].device)
        if func in INDEXING:
            places = [x for x in args[1] if x is not None]
            if on_card(args[0]) and not all(map(on_card, places)):
                self.note("index from the host")
            if len(places) == 1 and places[0].dtype is torch.bool:
                self._waits_for(args[0], "index by a mask")
                return _all_true(func, args)
        done = func(*args, **kwargs)
        if func in COPIES:
            self._copied(func, args, kwargs)
        return done

    def _value(self, x: Tensor) -> Any:
        self._waits_for(x, "value")
        return True if x.dtype is torch.bool else 1.0 if x.is_floating_point() else 1

    def _waits_for(self, x: Tensor, what: str) -> None:
        if on_card(x):
            self.note(what)

    def _copied(self, func: Any, args: Any, kwargs: Any) -> None:
        if func is aten._to_copy.default:
            source, to_card = args[0], torch.device(kwargs.get("device") or args[0].device).type == "cuda"
        else:
            source, to_card = args[1], on_card(args[0])
        started = kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True)
        if on_card(source) and not to_card:
            self.note("copy to the host")
        elif to_card and not on_card(source) and not started:
            self.note("copy from the host")


def on_card(x: Tensor) -> bool:
    """Whether a tensor is on the card."""
    return x.device.type == "cuda"


def onto_card(model: nn.Module) -> nn.Module:
    """Put a model onto the card."""
    for module in model.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(tensor, device=CUDA), tensor.requires_grad))
        for name, tensor in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty_like(tensor, device=CUDA))
    return model


def _not_meta(kwargs: Any) -> Any:
    """Return arguments with the card as the device of what C++ makes beside a tensor of the card."""
    return {**kwargs, "device": CUDA} if kwargs and kwargs.get("device") == META else kwargs or {}


def _all_true(func: Any, args: Any) -> Any:
    """Index as if all of a mask were true."""
    target, (mask,) = args[0], args[1]
    rows = target.flatten(0, mask.ndim - 1)
    if func is aten.index.Tensor:
        return rows.clone()
    put = rows.clone() if func is aten.index_put.default else rows
    put.copy_(args[2])
    return put.view(target.shape) if func is aten.index_put.default else target


def _check_generator(kwargs: Any) -> None:
    device = torch.device(kwargs.get("device") or "cpu")
    for value in kwargs.values():
        if isinstance(value, GENERATOR) and (value._cdata in Generators.of_card) != (device.type == "cuda"):
            raise WrongGeneratorError(f"random numbers for {device} from the generator of another device")


@contextmanager
def no_card() -> Iterator[Waits]:
    """Run the block with tensors without data; yield the places where it would wait for the card."""
    waits = Waits()

    def tolist(x: Tensor) -> Any:
        if on_card(x):
            waits.note("values")
        return np.full(x.shape, 1, bool if x.dtype is torch.bool else float if x.is_floating_point() else int).tolist()

    def numpy(x: Tensor) -> Any:
        if on_card(x):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.zeros(x.shape, NUMPY[x.dtype])

    state = torch.zeros(16, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch, Card(allow_non_fake_inputs=True):
        patch.setattr(torch, "Generator", Generators)
        patch.setattr(FakeTensor, "tolist", tolist)
        patch.setattr(FakeTensor, "numpy", numpy, raising=False)
        patch.setattr(FakeTensor, "is_cuda", property(on_card), raising=False)
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: state)
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        with waits:
            yield waits

"""Read weight files: shapes are compared before anything of that size is allocated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gare.common.errors import InputError
from gare.common.records import parse_object
from gare.common.redact import names, shown

MAX_HEADER = 4 * 2**20
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}

Shape = tuple[int, ...]


def shapes_in(path: Path) -> dict[str, Shape]:
    """Return names and shapes of the tensors of a safetensors file, from its header alone.

    Raises InputError if the header is too long or damaged, if tensors overlap, leave gaps or do not have the stated
    length, or if they hold no plain numbers.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise InputError(
                    f"Cannot read the weights in {path}: it is not a safetensors file, or its header of {length} bytes "
                    f"is cut off or longer than {MAX_HEADER}."
                )
            header = parse_object(stream.read(length), f"The header of {path}")
    except OSError as error:
        raise InputError(f"Cannot read the weights in {path}: {error.strerror or error}.") from None
    header.pop("__metadata__", None)
    _check_layout(header, size - 8 - length, path)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def read_safetensors(path: Path, wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read tensors of a safetensors file, or those ``wanted``, onto the CPU, after the checks of ``shapes_in``."""
    from safetensors import SafetensorError, safe_open

    shapes_in(path)
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in (opened.keys() if wanted is None else wanted)}
    except (SafetensorError, OSError) as error:
        raise InputError(f"Cannot read the weights in {path}: {error}.") from None


def compare(found: Mapping[str, Shape], asked: Mapping[str, Shape], where: str, settings: str) -> None:
    """Raise InputError unless a file (``where``) has exactly the tensors that ``settings`` require, in their shapes."""
    missing, unknown = sorted(asked.keys() - found.keys()), sorted(found.keys() - asked.keys())
    if missing or unknown:
        raise InputError(
            f"The weights in {where} do not fit {settings}: {len(missing)} tensors are missing{_some(missing)} and "
            f"{len(unknown)} are unknown{_some(unknown)}."
        )
    for name, shape in asked.items():
        if found[name] != shape:
            raise InputError(f"The weight {name} in {where} is {found[name]}, not the {shape} of {settings}.")


def as_floats(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Copy to float32; InputError for tensors that are not floating-point, and for NaN and infinities."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"The weight {name} in {where} is {kind}, not a floating-point tensor.")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"The weight {name} in {where} holds values that are not finite numbers.")
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}


def _check_layout(header: Mapping[str, Any], size: int, path: Path) -> None:
    """Raise InputError unless tensors fill the file without gaps, each with the length of its shape and type."""
    spans = []
    for name, entry in header.items():
        span, shape = _span(entry)
        if span is None or span[1] - span[0] != math.prod(shape) * _BITS[entry["dtype"]] // 8:
            raise InputError(
                f"Cannot read the weights in {path}: the tensor {shown(name)} is described as {shown(entry)}, which is "
                "no plain tensor of that size."
            )
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise InputError(f"Cannot read the weights in {path}: its tensors overlap or leave gaps at byte {start}.")
        end = stop
    if end != size:
        raise InputError(f"Cannot read the weights in {path}: its tensors take {end} bytes, but it has {size}.")


def _span(entry: Any) -> tuple[tuple[int, int] | None, Shape]:
    """Return start and end of a tensor's bytes, and its shape; None if the entry is malformed."""
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [int() as start, int() as stop]}:
            plain = all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) <= 8
            if plain and dtype in _BITS and 0 <= start <= stop:
                return (start, stop), tuple(shape)
    return None, ()


def _some(missing: list[str]) -> str:
    return f" ({names(missing, 3)})" if missing else ""


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the bytes of all parameters and buffers, in order."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

"""Read weights from untrusted files as data: nothing in them is ever executed.

torch.save and torch.jit.save both write a zip archive whose ``data.pkl`` is a pickle that names its tensors' bytes in
``data/``. A pickle is a program for a small stack machine. Our own machine runs it here, and knows only tensors,
numbers, strings and plain containers. Module objects of a TorchScript archive become inert bags of their attributes and
their code is not read. Any other name that the program asks for stops the reading.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gare.common.errors import InputError
from gare.common.plain_pickle import MAX_NAME, RefusedError
from gare.common.redact import first_line
from gare.model.tensor_pickle import Module, Storage, StorageType, TensorMachine
from gare.model.weights import read_safetensors

MAX_PICKLE_BYTES = 16 * 2**20
MAX_ENTRIES = 200_000
MAX_VALUES = 1_000_000
# Ties (one storage under two names) are legitimate; a small file that unfolds into many large tensors is not.
MAX_UNFOLDING = 4
WRAPPED = "module."
"""The prefix that torch's data parallelism adds to every name."""

Kind = Literal["state dict", "TorchScript archive", "safetensors"]


@dataclass(frozen=True)
class Archive:
    """The content of a file: tensors by dotted name, in the file's order, and its format."""

    tensors: dict[str, Tensor]
    kind: Kind


def read_archive(path: str | Path) -> Archive:
    """Read the tensors of a state dict (torch.save, safetensors) or of a TorchScript archive, onto the CPU.

    Raises InputError, one sentence, for anything else: a pickle that asks for more than data, a declared size that
    the bytes do not have, compressed or overlapping entries, or a file that is none of these formats.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            magic = stream.read(16)
        if magic[:2] == b"PK":
            return _ZipReader(path).read()
        if magic[8:9] == b"{":
            return Archive(read_safetensors(path), "safetensors")
        return _read_old(path)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None


def _read_old(path: Path) -> Archive:
    """Read a file of torch.save before version 1.6 (no zip) with torch's own loader for plain values."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its own text advises you to run what the file asks for
        raise InputError(
            f"{path} is neither a state dict nor a TorchScript archive that can be read as tensors alone: refused."
        ) from None
    except Exception as error:  # noqa: BLE001 - torch raises many kinds of error for files that are not checkpoints
        raise InputError(
            f"{path} is neither a state dict nor a TorchScript archive that can be read as tensors: "
            f"{first_line(error)}."
        ) from None
    return Archive(_state_dict(value, path), "state dict")


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict, on its own or inside a training file, as a mapping of names to dense tensors."""
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"{path} holds a {type(value).__name__}, not a state dict: a mapping of names to tensors.")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise InputError(
                f"{path} is not a plain state dict: {name!r} is a {type(tensor).__name__}, not a tensor; save "
                "model.state_dict() alone."
            )
    wrapped = all(name.startswith(WRAPPED) for name in value)
    return {name.removeprefix(WRAPPED) if wrapped else name: tensor.detach() for name, tensor in value.items()}


def check_entries(path: Path) -> None:
    """Raise ValueError if a torch.save file has compressed or overlapping entries, which take more memory to read."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in infos):
        raise ValueError("compressed entries")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise ValueError("entries that overlap")


class _ZipReader:
    """One archive: its checked entries, and the tensors that its pickle builds from them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._storages: dict[tuple[str, torch.dtype], Storage] = {}
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._bytes = path.stat().st_size

    def read(self) -> Archive:
        """Return the archive's tensors; InputError if it holds anything but data."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                self._zip = archive
                self._root = self._check_entries()
                value = TensorMachine(self._storage, self._tensor).run(self._bytes_of(f"{self._root}data.pkl"))
            if f"{self._root}constants.pkl" in self._entries:
                read = Archive(dict(_flatten(value)), "TorchScript archive")
            else:
                read = Archive(_state_dict(value, self._path), "state dict")
            self._check_unfolding(read.tensors)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
            raise InputError(f"{self._path} is damaged: {first_line(error)}.") from None
        except RefusedError as error:
            raise InputError(f"Cannot read {self._path} as tensors: {error}.") from None
        return read

    def _check_unfolding(self, tensors: Mapping[str, Tensor]) -> None:
        if sum(t.numel() * t.element_size() for t in tensors.values()) > MAX_UNFOLDING * self._bytes:
            raise RefusedError(f"its tensors unfold to more than {MAX_UNFOLDING} times the file")

    def _check_entries(self) -> str:
        """Index the entries and return the archive's folder, with its slash."""
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise RefusedError(f"it has {len(infos)} entries, more than {MAX_ENTRIES}")
        self._entries = {info.filename: info for info in infos}
        if len(self._entries) < len(infos):
            raise RefusedError("two of its entries have the same name")
        roots = [n.removesuffix("data.pkl") for n in self._entries if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(roots) != 1:
            raise RefusedError("it is a zip file, but not one of torch.save or torch.jit.save (no data.pkl)")
        stored = sum(i.file_size for i in infos if i.compress_type == zipfile.ZIP_STORED)
        if stored > self._bytes:
            raise RefusedError(f"its entries declare {stored} bytes, but the file has {self._bytes}")
        if f"{roots[0]}byteorder" in self._entries and self._bytes_of(f"{roots[0]}byteorder") != b"little":
            raise RefusedError("its numbers are big-endian")
        return roots[0]

    def _bytes_of(self, name: str) -> bytes:
        """Return one entry's bytes; RefusedError if it is compressed, which torch's own data never is."""
        info = self._entries.get(name)
        if info is None:
            raise RefusedError(f"it has no entry {name}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise RefusedError(f"its entry {name} is compressed, which torch never does to data")
        if name.endswith(".pkl") and info.file_size > MAX_PICKLE_BYTES:
            raise RefusedError(f"its {name} has {info.file_size} bytes, more than {MAX_PICKLE_BYTES}")
        return self._zip.read(info)

    def _storage(self, saved: Any) -> Storage:
        """Return the block that a persistent id names: ("storage", type, key, device, number of elements)."""
        match saved:
            case ("storage", StorageType(dtype=dtype), str() as key, str(), int() as count):
                pass
            case _:
                raise RefusedError("a tensor in it does not say where its numbers are")
        block = self._storages.get((key, dtype))
        if block is None:
            name = f"{self._root}data/{key}"
            declared, info = count * dtype.itemsize, self._entries.get(name)
            if info is None or info.file_size != declared:
                present = "none" if info is None else str(info.file_size)
                raise RefusedError(f"a tensor in it declares {declared} bytes in {name}, which has {present}")
            content = bytearray(self._bytes_of(name))
            flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            block = self._storages[key, dtype] = Storage(flat)
        if len(block.flat) != count:
            raise RefusedError(f"two tensors in it disagree about the size of {key}")
        return block

    def _tensor(self, arguments: Any) -> Tensor:
        """Return a view of a block, after checking that it stays inside: (storage, offset, size, stride, ...)."""
        match arguments:
            case (Storage(flat=flat), int() as offset, tuple() as size, tuple() as stride, *_):
                pass
            case _:
                raise RefusedError("a tensor in it is not described by storage, offset, size and stride")
        whole = [*size, *stride, offset]
        if len(size) != len(stride) or len(size) > 8 or any(type(n) is not int or n < 0 for n in whole):
            raise RefusedError(f"a tensor in it has the size {size} and stride {stride}")
        elements = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if elements > len(flat) or (elements and last >= len(flat)) or offset > len(flat):
            raise RefusedError(f"a tensor in it of size {size} reaches beyond its {len(flat)} stored numbers")
        return flat.as_strided(size, stride, offset) if elements else flat.new_empty(size)


def _flatten(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module tree by dotted name, in the file's order; other attributes are left out."""
    if not isinstance(module, Module):
        raise RefusedError("its pickle holds no module")
    pending: list[tuple[str, Any]] = [("", module)]
    seen = 0
    while pending:
        prefix, value = pending.pop()
        if isinstance(value, Tensor):
            yield prefix, value
        elif isinstance(value, Module):
            seen += 1 + len(value.attributes)
            # A module shared by many parents appears once per parent, which could grow without end.
            if seen > MAX_VALUES or len(prefix) > MAX_NAME:
                raise RefusedError("its modules are nested without end")
            inner = [(f"{prefix}.{name}" if prefix else str(name), v) for name, v in value.attributes.items()]
            pending.extend(reversed(inner))

"""Account for every tensor of a file: mapped, dropped for a stated reason, or an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gare.common.errors import InputError
from gare.common.redact import names as listed
from gare.model.pixels import OPENAI_PIXELS, Pixels

NEVER_CALLED = "a layer the released forward pass never calls"
DEAD = {
    r"psi\.layers\.\d+\.linear2\.": NEVER_CALLED,
    r"psi\.layers\.\d+\.mlp\.": NEVER_CALLED,
    r"psi\.log_std_proj\.": f"{NEVER_CALLED} (increments are not sampled)",
    r"weight_fc\.": f"{NEVER_CALLED} (words and frames are not weighted)",
    r"(.+\.)?attn_mask$": "the causal mask, the same in every CLIP",
}


@dataclass(frozen=True)
class Row:
    """A line of the import's record: a group of tensors, their number, and where they went or why they were dropped."""

    group: str
    tensors: int
    remark: str


@dataclass
class Converted:
    """Weights in float32 under our names, CLIP's config (transformers' keys), and what the shapes determine.

    ``kind``: ``gare`` (names of GareModel) or ``clip`` (names of transformers' CLIPModel). ``settings``: dotted keys
    that the file determines. ``stated``: values that the shapes do not determine, each with its origin.
    """

    kind: Literal["gare", "clip"]
    clip_config: dict[str, Any]
    weights: dict[str, Tensor]
    pixels: Pixels = OPENAI_PIXELS
    settings: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, tuple[Any, str]] = field(default_factory=dict)
    mapped: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)


class Source:
    """A file's tensors, with a record of those already accounted for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.taken: set[str] = set()

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return a tensor's shape; InputError if the tensor is missing or the shape has other dimensions or a 0."""
        if name not in self.tensors:
            raise InputError(f"The file has no tensor {name}; it is not complete.")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise InputError(f"The tensor {name} in the file is {shape}; {dimensions} dimensions are expected.")
        return shape

    def layers(self, blocks: str) -> int:
        """Count the numbered blocks."""
        pattern = re.compile(rf"{re.escape(blocks)}\.(\d{{1,4}})\.")
        numbers = {int(m[1]) for m in map(pattern.match, self.tensors) if m}
        return max(numbers, default=-1) + 1

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of this shape in float32, and record it as used."""
        found = self.shape(name, len(shape))
        if found != shape:
            raise InputError(f"The tensor {name} in the file is {found}, where its other tensors ask for {shape}.")
        tensor = self.tensors[name]
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InputError(f"The tensor {name} in the file holds values that are not finite numbers.")
        self.taken.add(name)
        return tensor.float()

    def drop(self, names: Iterable[str], group: str, remark: str, out: Converted) -> None:
        """Account for tensors that are not needed."""
        names = list(names)
        if names:
            self.taken.update(names)
            out.dropped.append(Row(group, len(names), remark))

    def drop_stated(self, prefix: str, stated: Mapping[str, int], out: Converted) -> None:
        """Drop the sizes that OpenAI's archives hold as tensors; InputError if they differ from the shapes."""
        names = [name for name in stated if f"{prefix}{name}" in self.tensors]
        for name in names:
            value = self.tensors[f"{prefix}{name}"]
            if value.numel() != 1 or int(value) != stated[name]:
                raise InputError(f"The file states {name} {value.tolist()}, but its tensors have {stated[name]}.")
        self.drop((prefix + name for name in names), ", ".join(names), "sizes, which the shapes say too", out)

    def drop_copies(self, copy: str, original: str, out: Converted) -> None:
        """Drop tensors stored a second time; InputError if the two copies differ."""
        names = [name for name in self.tensors if name.startswith(copy)]
        for name in names:
            first = original + name.removeprefix(copy)
            if first not in self.tensors:
                raise InputError(f"The file has {name}, but not {first}, which it should be a copy of.")
            if not torch.equal(self.tensors[name], self.tensors[first]):
                raise InputError(f"The file holds two versions of one weight: {name} and {first} differ.")
        self.drop(names, f"{copy}*", f"the same tensors as {original}*, stored twice", out)

    def drop_dead(self, out: Converted) -> None:
        """Drop the layers that no forward pass uses."""
        for pattern, reason in DEAD.items():
            names = [name for name in self.tensors if name not in self.taken and re.match(pattern, name)]
            self.drop(names, _shown(pattern), reason, out)

    def finish(self) -> None:
        """Raise InputError if any tensor is unaccounted for."""
        left = sorted(self.tensors.keys() - self.taken)
        if left:
            shown = listed(left)
            raise InputError(
                f"The file holds {len(left)} tensors this software does not know, so its scores could not be "
                f"reproduced: {shown}."
            )


def _shown(pattern: str) -> str:
    """Return a pattern with ``*`` in place of regular expressions."""
    plain = pattern.replace(r"(.+\.)?", "*.").replace(r"\d+", "*").replace("\\", "").removesuffix("$")
    return plain + "*" if plain.endswith(".") else plain

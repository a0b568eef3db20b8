"""Define a gallery: what a head computes once per video so that each pair costs little, without gradients."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Generic, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """Run without gradients and autocast, so that tensors keep their own types on every kind of device."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return run


@dataclass
class ScoreStats:
    """Number of pairs scored, and of those scored densely: because of cancellation, or without factors."""

    pairs: int = 0
    dense_pairs: int = 0


class Rows:
    """A dataclass whose fields are tensors with one row per video or context, other such dataclasses, or None."""

    def __len__(self) -> int:
        return len(next(iter(self.tensors().values())))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Select rows; a slice copies nothing."""
        return self.each(lambda x: x[rows])

    def to(self, device: torch.device | str) -> Self:
        """Move the tensors to another device."""
        return self.each(lambda x: x.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor under its field's name, or ``field.inner``."""
        found: dict[str, Tensor] = {}
        for name, value in self._fields():
            if isinstance(value, Rows):
                found |= {f"{name}.{inner}": tensor for inner, tensor in value.tensors().items()}
            elif value is not None:
                found[name] = value
        return found

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Concatenate the rows of several, in order."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(part._fields() for part in parts), strict=True)
        return replace(parts[0], **{column[0][0]: _join([value for _, value in column]) for column in columns})  # type: ignore[type-var]

    def _fields(self) -> list[tuple[str, Tensor | Rows | None]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply ``change`` to every tensor."""
        changed = {
            name: value.each(change) if isinstance(value, Rows) else None if value is None else change(value)
            for name, value in self._fields()
        }
        return replace(self, **changed)  # type: ignore[type-var]


def _join(values: list[Tensor | Rows | None]) -> Tensor | Rows | None:
    if isinstance(values[0], Rows):
        return Rows.join([value for value in values if isinstance(value, Rows)])
    return None if values[0] is None else torch.cat([value for value in values if isinstance(value, Tensor)])


@dataclass(frozen=True)
class Texts(Rows):
    """text [B, D]; words [B, W, D] and word_mask [B, W] for heads that read them, else None or W = 0."""

    text: Tensor
    words: Tensor | None = None
    word_mask: Tensor | None = None


@dataclass(frozen=True)
class Videos(Rows):
    """frames [V, F, D] and frame_mask [V, F], every row with a valid frame."""

    frames: Tensor
    frame_mask: Tensor


Gallery = TypeVar("Gallery", bound=Rows)


class Factors(ABC, Generic[Gallery]):
    """A head's way of scoring a gallery of videos it has seen before, in float32 (float64 for float64)."""

    at_once: int | None = 128
    """Videos whose factors are built and scored together if none are kept; None for all."""

    stored = "videos.frames"
    """The tensor of a gallery that is kept in the type ``storage``."""

    @abstractmethod
    def build(self, videos: Videos, storage: torch.dtype | None = None) -> Gallery:
        """Build the factors of videos, the large ones in the type ``storage``."""

    @abstractmethod
    def read(self, tensors: Mapping[str, Tensor]) -> Gallery:
        """Rebuild a gallery from the tensors of one that was built."""

    @abstractmethod
    def score(self, gallery: Gallery, texts: Texts, stats: ScoreStats) -> Tensor:
        """Return exact cosines [B, V]; other memory does not grow with B or V. ConfigError if words are missing."""


def slices(count: int, block: int) -> Iterator[slice]:
    """Yield [0, count) in blocks."""
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))

"""The codes of an index's videos, int8 vectors grouped into lists, of which a search reads the most promising ones.

A list holds the videos whose codes point in the same direction. A query reads the lists whose mean vectors have the
largest inner products with it. Chosen by distance, they would miss most of the answers; chosen by their directions, a
query has to read twice as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.scoring.factors import Rows, slices

SCAN_BLOCK = 2**14
ROUNDS = 10
"""Rounds of k-means that find the centres of the lists."""

PER_LIST = 64
"""Codes per list that the centres are found from."""


@dataclass(frozen=True)
class Codes(Rows):
    """``codes`` [V, r] int8 and ``scale`` [V]."""

    codes: Tensor
    scale: Tensor

    def scores(self, queries_BR: Tensor) -> Tensor:
        """Return approximate scores [B, V]; apart from the result, memory depends on neither B nor V.

        A query is split into two int8 parts, so that only the codes are rounded.
        """
        unit = queries_BR.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
        coarse = (queries_BR / unit).round()
        fine = ((queries_BR / unit - coarse) * 254).round()
        rows = torch.cat([coarse, fine]).to(torch.int8)
        found = queries_BR.new_empty(len(queries_BR), len(self))
        for part in slices(len(self), SCAN_BLOCK):
            high, low = _products(rows, self.codes[part]).float().chunk(2)
            found[:, part] = high.add_(low, alpha=1 / 254).mul_(self.scale[part]).mul_(unit)
        return found

    def vectors(self) -> Tensor:
        """Return the vectors [V, r] that the codes stand for."""
        return self.codes.float() * self.scale[:, None]


def _products(rows: Tensor, codes: Tensor) -> Tensor:
    """Return inner products of int8 rows, by torch's own product of int8 matrices if it exists."""
    if not hasattr(torch, "_int_mm"):
        return rows.float() @ codes.float().T
    return torch._int_mm(rows, codes.T)  # noqa: SLF001 - there is no public product of int8 matrices


@dataclass(frozen=True)
class Lists:
    """``centres`` [L, r]: the direction of each list, of length 1; ``means`` [L, r]: the mean of its vectors."""

    centres: Tensor
    means: Tensor

    def __len__(self) -> int:
        return len(self.centres)

    @staticmethod
    def wanted(videos: int) -> int:
        """Return how many lists an index of this size has: as many as each of them has videos."""
        return max(1, math.isqrt(videos))

    @classmethod
    def of(cls, codes: Codes, count: int, seed: int = 0) -> Lists:
        """Find the centres of lists by k-means of directions; ``codes``: a sample of the videos."""
        vectors = torch.nn.functional.normalize(codes.codes.float(), dim=1)
        random = torch.Generator().manual_seed(seed)
        centres = vectors[torch.randperm(len(vectors), generator=random)[:count]].clone()
        for _ in range(ROUNDS):
            nearest = _nearest(vectors, centres)
            sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
            empty = torch.bincount(nearest, minlength=len(centres)) == 0
            centres = torch.where(empty[:, None], centres, torch.nn.functional.normalize(sums, dim=1))
        nearest, found = _nearest(vectors, centres), codes.vectors()
        counts = torch.bincount(nearest, minlength=len(centres)).clamp(min=1)
        return cls(centres, torch.zeros_like(centres).index_add_(0, nearest, found) / counts[:, None])

    def assign(self, codes: Codes) -> Tensor:
        """Return the list [V] of each video."""
        return _nearest(codes.codes, self.centres)

    def best(self, query_R: Tensor, count: int) -> Tensor:
        """Return the numbers of the ``count`` lists to read for a query."""
        return (self.means @ query_R).topk(min(count, len(self))).indices


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """Return the centre of the largest inner product for each vector, block by block."""
    found = [(vectors[part].float() @ centres.T).argmax(dim=1) for part in slices(len(vectors), SCAN_BLOCK)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class SegmentCodes:
    """The codes of a segment, list by list: ``rows`` [V] of its videos, and the ``starts`` [L + 1] of the lists.

    Without lists, as in older indexes, both are None and the codes are in the order of the videos.
    """

    codes: Codes
    rows: Tensor | None = None
    starts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, codes: Codes, lists: Lists | None) -> SegmentCodes:
        """Group codes in the order of their videos."""
        if lists is None:
            return cls(codes)
        places = lists.assign(codes)
        rows = places.argsort(stable=True)
        counts = torch.bincount(places, minlength=len(lists))
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(codes[rows], rows.to(torch.int32), starts)

    @cached_property
    def _places(self) -> Tensor | None:
        """The place of each video's code."""
        if self.rows is None:
            return None
        places = torch.empty_like(self.rows)
        places[self.rows.long()] = torch.arange(len(self.rows), dtype=self.rows.dtype)
        return places

    def of_videos(self, rows: Tensor) -> Codes:
        """Return the codes of videos by their rows."""
        return self.codes[rows if self._places is None else self._places[rows].long()]

    def scan(self, query_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and approximate scores of all videos."""
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return rows, self.codes.scores(query_R[None])[0]

    def inside(self, lists: Tensor) -> tuple[Tensor, Codes]:
        """Return rows and codes of the videos in some lists. Raises ValueError if there are no lists."""
        if self.starts is None or self.rows is None:
            raise ValueError("these codes are in no lists")
        ends = torch.stack([self.starts[lists], self.starts[lists + 1]], dim=1).tolist()
        spans = [slice(*span) for span in ends]
        rows, codes, scale = (
            torch.cat([x[span] for span in spans]) for x in (self.rows, self.codes.codes, self.codes.scale)
        )
        return rows, Codes(codes, scale)

    def save(self, path: Path) -> None:
        """Write them as a safetensors file."""
        tensors = {"codes": self.codes.codes, "scale": self.codes.scale}
        if self.rows is not None and self.starts is not None:
            tensors |= {"rows": self.rows, "starts": self.starts}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path, videos: int, rank: int, lists: int | None) -> SegmentCodes:
        """Map the codes of a segment. Raises InputError unless they are those of ``videos`` videos in so many lists."""
        tensors = read_tensors(path)
        damaged = InputError(f"{path} does not hold the codes of its {videos} videos. Make the index again.")
        expected = {"codes": ((videos, rank), torch.int8), "scale": ((videos,), torch.float32)}
        if lists is not None:
            expected |= {"rows": ((videos,), torch.int32), "starts": ((lists + 1,), torch.int64)}
        if {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()} != expected:
            raise damaged
        found = cls(Codes(tensors["codes"], tensors["scale"]), tensors.get("rows"), tensors.get("starts"))
        if found.rows is not None and found.starts is not None and not _are_lists(found.rows, found.starts):
            raise damaged
        return found


def _are_lists(rows: Tensor, starts: Tensor) -> bool:
    """Return True if the lists hold each video once."""
    counts = starts.diff()
    if int(starts[0]) != 0 or int(starts[-1]) != len(rows) or bool((counts < 0).any()):
        return False
    if not len(rows):
        return True
    inside = int(rows.min()) >= 0 and int(rows.max()) < len(rows)
    return inside and bool((torch.bincount(rows, minlength=len(rows)) == 1).all())


def save_lists(path: Path, lists: Lists) -> None:
    """Write the centres and means of lists as a safetensors file."""
    save_file({"centres": lists.centres, "means": lists.means}, path)


def load_lists(path: Path, rank: int) -> Lists:
    """Read a file of ``save_lists`` for codes of ``rank`` numbers. Raises InputError for anything else."""
    tensors = read_tensors(path)
    count = max((len(x) for x in tensors.values() if x.ndim), default=0)
    whole = {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()} == dict.fromkeys(
        ("centres", "means"), ((count, rank), torch.float32)
    )
    if not whole or not count or not all(bool(torch.isfinite(x).all()) for x in tensors.values()):
        raise InputError(f"{path} does not hold the lists of this index's codes. Make the index again.")
    return Lists(tensors["centres"], tensors["means"])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file. Raises InputError if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {first_line(error)}. Make the index again.") from None

"""The first stage of a large index: approximate a score by the inner product of a few int8 numbers with a query.

    phi(t) = W [t - mean, exp(-||t - a_m||^2 / 2 w^2) for 512 texts a_m, 1]     W: white over n anchor texts
    s(t, v) ~ <phi(t), c_v>,   c_v = (1/n) sum_i phi(t_i) s(t_i, v)              least squares of the exact scores

The r main directions of c_v over videos are kept, rotated at random so that all matter equally, and rounded to int8
with one scale per video. The stage does not depend on the head: it can approximate any score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import InputError
from gare.common.records import STRICT, checked, load_json
from gare.common.redact import first_line
from gare.scoring.factors import Rows

ANCHORS, HELD_OUT = 2048, 512
"""Texts to fit the stage on, and others to measure its recall with; half of each are fragments."""

FEWEST_TEXTS = 64
"""With fewer captions, there is no stage."""

RADIAL, RANK = 512, 128
SAMPLE = 1024
"""Number of videos used to find the main directions."""

TOP = 10
"""The recall is measured for this many best videos."""

TARGET = 0.99
"""Recall at which the index chooses its number of candidates."""

CANDIDATES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
GROWTH = 0.6
"""The candidates for a given recall grow with this power of the number of videos, measured from 1,800 to 14,600."""

WIDE = 10
"""Factor on the number of candidates for a query of unknown vocabulary."""

FALSE_FLAGS = 0.02
"""Share of the held-out texts that count as unknown."""

SCAN_BLOCK = 2**14


@dataclass(frozen=True)
class Anchors:
    """``fit``: texts to fit the stage on; ``captions``, ``fragments``: other texts to measure it with."""

    fit: list[str]
    captions: list[str]
    fragments: list[str]

    @property
    def held_out(self) -> list[str]:
        """The texts to measure with, captions first."""
        return [*self.captions, *self.fragments]

    @classmethod
    def of(cls, captions: Iterable[str], seed: int = 0) -> Anchors | None:
        """Draw texts from any number of captions, keeping only the drawn ones in memory; return None for too few."""
        random = np.random.default_rng(seed)
        wanted = (ANCHORS + HELD_OUT) // 2
        drawn: dict[str, bytes] = {}  # the texts of the lowest hashes: a sample of the distinct ones
        limit, salt = b"\xff" * 8, seed.to_bytes(8)
        for text in captions:
            place = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
            if place < limit and text.strip():
                drawn[text] = place
                if len(drawn) >= 2 * wanted:
                    drawn = dict(sorted(drawn.items(), key=lambda item: item[1])[:wanted])
                    limit = max(drawn.values())
        texts = [text for text, _ in sorted(drawn.items(), key=lambda item: item[1])][:wanted]
        if len(texts) < FEWEST_TEXTS:
            return None
        kept = len(texts) * HELD_OUT // (ANCHORS + HELD_OUT)
        fit, held = texts[kept:], texts[:kept]
        return cls(fit + [_fragment(t, random) for t in fit], held, [_fragment(t, random) for t in held])


def _fragment(text: str, random: np.random.Generator) -> str:
    """Return some neighbouring words of a caption, at most half of them."""
    words = text.split()
    count = int(random.integers(1, max(1, len(words) // 2) + 1))
    start = int(random.integers(0, len(words) - count + 1))
    return " ".join(words[start : start + count])


@dataclass(frozen=True)
class Basis:
    """Turns scores into codes and texts into queries; fixed while an index is appended to.

    ``mean`` [D], ``centres`` [M, D], ``width`` []: the features of a text; ``white`` [D + M + 1, k]; ``directions``
    [k, r]; ``fit`` [n, r] and ``offset`` [r] turn scores of the anchors into codes.
    """

    mean: Tensor
    centres: Tensor
    width: Tensor
    white: Tensor
    directions: Tensor
    fit: Tensor
    offset: Tensor

    @classmethod
    def of(cls, anchors_ND: Tensor, scores_VN: Tensor, seed: int = 0) -> Basis:
        """Fit a basis to the anchors' text vectors and the exact scores of a sample of videos with them."""
        text, scores = anchors_ND.double(), scores_VN.double()
        random = torch.Generator().manual_seed(seed)
        mean = text.mean(0)
        centres = text[torch.randperm(len(text), generator=random)[:RADIAL]]
        distances = torch.cdist(text, centres)
        width = distances.median().clamp(min=1e-6)
        features = _features(text, mean, centres, width)
        values, vectors = torch.linalg.eigh(features.T @ features / len(text))
        # Directions in which the anchors hardly vary, or more than half as many as there are anchors, fit only noise.
        kept = (values > 1e-9 * values[-1]) & (torch.arange(len(values)) >= len(values) - len(text) // 2)
        white = vectors[:, kept] / values[kept].sqrt()
        phi = features @ white
        mean_score = scores.mean(0)
        coefficients = (scores - mean_score) @ phi / len(text)
        directions = torch.linalg.svd(coefficients, full_matrices=False).Vh[:RANK].T
        rotation = torch.linalg.qr(
            torch.randn(directions.shape[1], directions.shape[1], generator=random, dtype=torch.float64)
        ).Q
        directions = directions @ rotation
        fit = phi @ directions / len(text)
        parts = (mean, centres, width, white, directions, fit, mean_score @ fit)
        return cls(*(part.float().contiguous() for part in parts))

    def codes(self, scores_VN: Tensor) -> Codes:
        """Return codes of videos from their exact scores with the anchors."""
        exact = scores_VN.float() @ self.fit - self.offset
        scale = exact.abs().amax(dim=1).clamp(min=1e-30) / 127
        return Codes((exact / scale[:, None]).round().to(torch.int8), scale)

    def queries(self, text_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries [B, r], and the leverage [B] of each text: its distance from the texts of the fit."""
        features = _features(text_BD.double(), self.mean.double(), self.centres.double(), self.width.double())
        phi = features @ self.white.double()
        return (phi @ self.directions.double()).float(), phi.square().mean(dim=1)


def _features(text: Tensor, mean: Tensor, centres: Tensor, width: Tensor) -> Tensor:
    radial = (-torch.cdist(text, centres).square() / (2 * width.square())).exp()
    return torch.cat([text - mean, radial, text.new_ones(len(text), 1)], dim=1)


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
        for start in range(0, len(self), SCAN_BLOCK):
            part = slice(start, start + SCAN_BLOCK)
            high, low = _products(rows, self.codes[part]).float().chunk(2)
            found[:, part] = high.add_(low, alpha=1 / 254).mul_(self.scale[part]).mul_(unit)
        return found


def _products(rows: Tensor, codes: Tensor) -> Tensor:
    """Return inner products of int8 rows, by torch's own product of int8 matrices if it exists."""
    if not hasattr(torch, "_int_mm"):
        return rows.float() @ codes.float().T
    return torch._int_mm(rows, codes.T)  # noqa: SLF001 - there is no public product of int8 matrices


@dataclass(frozen=True)
class Recall:
    """Share of the exact top 10 among the best K of the stage, for each K of ``candidates`` and kind of held-out text.

    ``leverage``: above this, a query counts as unknown.
    """

    __pydantic_config__ = STRICT

    videos: int
    candidates: list[int]
    captions: list[float]
    fragments: list[float]
    leverage: float

    def __post_init__(self) -> None:
        if not len(self.candidates) == len(self.captions) == len(self.fragments):
            raise ValueError("its recall curve has a value missing")

    def at(self, count: int) -> float:
        """Return the recall of the worse kind at this many candidates, or the nearest smaller number measured."""
        known = [
            min(c, f) for k, c, f in zip(self.candidates, self.captions, self.fragments, strict=True) if k <= count
        ]
        return max(known, default=0.0)

    def choose(self, top: int, videos: int) -> int:
        """Return the fewest candidates for 99 % of the exact top 10, with proportionally more for a longer list.

        An index that has grown since its recall was measured takes more, by the measured power of growth.
        """
        enough = next((k for k in self.candidates if self.at(k) >= TARGET), self.videos)
        grown = math.pow(max(1.0, videos / max(1, self.videos)), GROWTH)
        return math.ceil(enough * grown * max(1, -(-top // TOP)))


class Measure:
    """Measures the recall of a stage from exact scores that come block by block."""

    def __init__(self, queries_BR: Tensor, leverage_B: Tensor, captions: int) -> None:
        """Start measuring; the first ``captions`` held-out texts are captions, the others fragments."""
        self._queries, self._leverage, self._captions = queries_BR, leverage_B, captions
        self._best = self._stage = queries_BR.new_empty(len(queries_BR), 0)

    def add(self, scores_BV: Tensor, codes: Codes) -> None:
        """Add some videos' exact scores with the held-out texts, and their codes."""
        both = torch.cat([self._best, scores_BV], dim=1)
        kept = both.topk(min(TOP, both.shape[1]), dim=1).indices
        self._best = both.gather(1, kept)
        self._stage = torch.cat([self._stage, codes.scores(self._queries)], dim=1).gather(1, kept)

    def recall(self, all_codes: Iterable[Codes]) -> Recall:
        """Count how many of the exact top 10 are among the best K of the stage; takes the codes of all videos again."""
        ahead, videos = torch.zeros_like(self._stage, dtype=torch.int64), 0
        for codes in all_codes:
            for start in range(0, len(codes), SCAN_BLOCK):
                part = codes[slice(start, start + SCAN_BLOCK)]
                ordered = part.scores(self._queries).sort(dim=1).values
                ahead += len(part) - torch.searchsorted(ordered, self._stage, right=True)
                videos += len(part)
        tried = [k for k in CANDIDATES if k < videos] + [videos]
        share = [(ahead < k).double().mean(1) for k in tried]
        cut = self._captions
        return Recall(
            videos=videos,
            candidates=tried,
            captions=[round(float(x[:cut].mean()), 5) for x in share],
            fragments=[round(float(x[cut:].mean()), 5) for x in share],
            leverage=float(torch.quantile(self._leverage, 1 - FALSE_FLAGS)),
        )


def save_basis(path: Path, basis: Basis, anchors: Anchors) -> None:
    """Write a basis and its texts as one safetensors file."""
    tensors = {f.name: getattr(basis, f.name) for f in fields(basis)}
    save_file(tensors, path, metadata={"anchors": json.dumps(asdict(anchors))})


def load_basis(path: Path, dim: int) -> tuple[Basis, Anchors]:
    """Read a file of ``save_basis`` for texts of width ``dim``. Raises InputError for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            anchors = checked(Anchors, load_json((file.metadata() or {}).get("anchors", "")))
            basis = Basis(**{f.name: file.get_tensor(f.name) for f in fields(Basis)})
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {first_line(error)}. Make the index again.") from None
    if not _fits_together(basis, dim, len(anchors.fit)):
        raise InputError(f"{path} does not hold the basis of this index's texts. Make the index again.")
    return basis, anchors


def _fits_together(basis: Basis, dim: int, texts: int) -> bool:
    """Return True if the parts of a basis are finite and have matching types and shapes."""
    parts = {f.name: getattr(basis, f.name) for f in fields(basis)}
    if any(part.dtype != torch.float32 or not bool(torch.isfinite(part).all()) for part in parts.values()):
        return False
    if basis.centres.ndim != 2 or basis.directions.ndim != 2:
        return False
    (radial, _), (inner, rank) = basis.centres.shape, basis.directions.shape
    expected = {
        "mean": (dim,),
        "centres": (radial, dim),
        "width": (),
        "white": (dim + radial + 1, inner),
        "directions": (inner, rank),
        "fit": (texts, rank),
        "offset": (rank,),
    }
    return expected == {name: tuple(part.shape) for name, part in parts.items()}


def save_codes(path: Path, codes: Codes) -> None:
    """Write the codes of a segment as a safetensors file."""
    save_file({"codes": codes.codes, "scale": codes.scale}, path)


def load_codes(path: Path, videos: int, rank: int) -> Codes:
    """Map the codes of a segment. Raises InputError unless they are those of ``videos`` videos."""
    try:
        with safe_open(path, framework="pt") as file:
            codes = Codes(file.get_tensor("codes"), file.get_tensor("scale"))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {first_line(error)}. Make the index again.") from None
    fits = codes.codes.shape == (videos, rank) and codes.codes.dtype == torch.int8
    if not fits or codes.scale.shape != (videos,) or codes.scale.dtype != torch.float32:
        raise InputError(f"{path} does not hold the codes of its {videos} videos. Make the index again.")
    return codes

"""The first stage of a large index: approximate a score by the inner product of a few int8 numbers with a query.

    phi(t) = W [t - mean, exp(-||t - a_m||^2 / 2 w^2) for 512 texts a_m, 1]     W: white over n anchor texts
    s(t, v) ~ <phi(t), c_v>,   c_v = (1/n) sum_i phi(t_i) s(t_i, v)              least squares of the exact scores

The r main directions of c_v over videos are kept, rotated at random so that all matter equally, and rounded to int8
with one scale per video. The stage does not depend on the head: it can approximate any score.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import InputError
from gare.common.records import checked, load_json
from gare.common.redact import first_line
from gare.retrieval.anchors import Anchors
from gare.retrieval.codes import Codes

RADIAL, RANK = 512, 128
SAMPLE = 1024
"""Number of videos used to find the main directions."""


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
    if not _fits_together(basis, dim, len(anchors.fitted)):
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

"""Provide the increments of all pairs to the regularisers: lengths, moments and rows, never more at once.

``DenseIncrements`` holds the [B, V, D] tensor. ``FactorisedIncrements`` holds coefficients over a few vectors per
context (the method's section 6); it forms rows in blocks, and again in the backward pass, so that memory stays bounded.
Rows are this rank's texts; ``world`` sums over those of the other ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from gare.objective.world import SINGLE, World


@dataclass(frozen=True)
class PairSpread:
    """The increments of C contexts and N others as mean and variance over masks drawn per pair.

    Mean: ``coefficients`` [C, N, K] over ``basis`` [C, K, D]. Variance, per dimension: (``weights`` [C, N, L] over
    ``hidden`` [C, L, D])^2 times ``gains`` [D, D].
    """

    coefficients: Tensor
    basis: Tensor
    weights: Tensor
    hidden: Tensor
    gains: Tensor

    def moments(self, world: World = SINGLE) -> tuple[Tensor, Tensor]:
        """Return mean and variance over a context's N others (``world``: over those of all ranks too), [C, D] each.

        The variance is the expected unbiased variance over masks and others: the variance of the means plus the mean of
        the masks' own variances.
        """
        count = self.coefficients.shape[1] * world.size
        mean_CK = world.sum(self.coefficients.sum(dim=1)) / count
        centred = self.coefficients - mean_CK[:, None]
        covariance = world.sum(torch.bmm(centred.mT, centred)) / max(count - 1, 1)
        square = world.sum(torch.bmm(self.weights.mT, self.weights)) / count
        noise = (torch.bmm(square, self.hidden) * self.hidden).sum(dim=1) @ self.gains.T
        mean, variance = over_basis(mean_CK, covariance, self.basis)
        return mean, variance + noise.clamp(min=0)

    def unit(self) -> PairSpread:
        """Scale the directions to length 1: divide by the root of the mean squared length."""
        mean = _quadratic(self.coefficients, torch.bmm(self.basis, self.basis.mT))
        noise = _quadratic(self.weights, torch.bmm(self.hidden * self.gains.sum(dim=0), self.hidden.mT))
        length = (mean + noise).clamp(min=1e-24).sqrt()[..., None]
        return PairSpread(self.coefficients / length, self.basis, self.weights / length, self.hidden, self.gains)


def over_basis(mean_CK: Tensor, covariance_CKK: Tensor, basis_CKD: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance [C, D] of vectors from those of their coefficients over a basis."""
    mean = torch.bmm(mean_CK[:, None], basis_CKD)[:, 0]
    return mean, (torch.bmm(covariance_CKK, basis_CKD) * basis_CKD).sum(dim=1).clamp(min=0)


def _quadratic(rows_CNK: Tensor, gram_CKK: Tensor) -> Tensor:
    return (torch.bmm(rows_CNK, gram_CKK) * rows_CNK).sum(dim=-1)


OfRows = Callable[[Tensor, int], Tensor]
BLOCK_NUMBERS = 2**24
"""Most numbers of one block of rows, or of their cosines: 64 MB in float32."""


class Increments(ABC):
    """D_ij of B texts (this rank's) and V videos, of width D."""

    texts: int
    videos: int
    dim: int

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Return the increments of some texts, [stop - start, V, D]."""

    @abstractmethod
    def lengths(self) -> Tensor:
        """Return ||D_ij||, [B, V]."""

    @abstractmethod
    def unit(self) -> Increments:
        """Return the same directions at length 1."""

    @abstractmethod
    def by_video(self, world: World = SINGLE) -> Increments:
        """Return the increments with videos as rows: this rank's videos against all ranks' texts."""

    def video_moments(self, world: World = SINGLE) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance over all ranks' texts, [V, D] each, in two passes."""
        count = self.texts * world.size
        mean = world.sum(_total(self.by_rows(lambda rows, _: rows.sum(dim=0)))) / count
        squares = _total(self.by_rows(lambda rows, _: (rows - mean).square().sum(dim=0)))
        return mean, world.sum(squares) / max(count - 1, 1)

    def text_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance over videos, [B, D] each, in two passes."""
        freedom = max(self.videos - 1, 1)

        def of_rows(rows: Tensor, _: int) -> Tensor:
            mean = rows.mean(dim=1, keepdim=True)
            return torch.stack([mean[:, 0], (rows - mean).square().sum(dim=1) / freedom])

        mean, variance = torch.cat(list(self.by_rows(of_rows)), dim=1)
        return mean, variance

    def by_rows(self, function: OfRows) -> Iterator[Tensor]:
        """Yield ``function(rows, first text)`` of blocks; the backward pass makes blocks again and keeps none."""
        cuts = self.cuts()
        if len(cuts) == 1:
            yield function(self.rows(*cuts[0]), 0)
            return
        for start, stop in cuts:
            made: Tensor = checkpoint(self._block, function, start, stop, use_reentrant=False)
            yield made

    def cuts(self) -> list[tuple[int, int]]:
        """Return the bounds of each block of rows."""
        return cuts(self.texts, self.videos, self.dim, BLOCK_NUMBERS)

    def _block(self, function: OfRows, start: int, stop: int) -> Tensor:
        return function(self.rows(start, stop), start)


class DenseIncrements(Increments):
    """Increments held as one tensor [B, V, D]."""

    def __init__(self, delta_BVD: Tensor) -> None:
        self.delta_BVD = delta_BVD
        self.texts, self.videos, self.dim = delta_BVD.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Return a slice."""
        return self.delta_BVD[start:stop]

    def lengths(self) -> Tensor:
        """Return the norms over D."""
        lengths: Tensor = self.delta_BVD.norm(dim=-1)
        return lengths

    def unit(self) -> DenseIncrements:
        """Normalise over D."""
        return DenseIncrements(F.normalize(self.delta_BVD, dim=-1))

    def by_video(self, world: World = SINGLE) -> DenseIncrements:
        """Transpose; with several ranks, all of [B, V, D] is gathered."""
        own = world.own(self.texts) if world.size > 1 else slice(None)
        return DenseIncrements(world.gather(self.delta_BVD)[:, own].transpose(0, 1))


class BlockIncrements(Increments):
    """Increments in blocks [b, V, D] of texts, which are never joined into one tensor except in ``by_video``."""

    def __init__(self, blocks: Sequence[Tensor], *, normalised: bool = False) -> None:
        self.blocks, self.normalised = list(blocks), normalised
        self.texts = sum(len(block) for block in self.blocks)
        _, self.videos, self.dim = self.blocks[0].shape

    @override
    def cuts(self) -> list[tuple[int, int]]:
        stops = list(accumulate(len(block) for block in self.blocks))
        return list(zip([0, *stops[:-1]], stops, strict=True))

    def rows(self, start: int, stop: int) -> Tensor:
        """Return a block itself, without a copy, if the rows are exactly that block."""
        bounds = zip(self.blocks, self.cuts(), strict=True)
        parts = [b[max(start - at, 0) : stop - at] for b, (at, end) in bounds if at < stop and start < end]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return F.normalize(rows, dim=-1) if self.normalised else rows

    def lengths(self) -> Tensor:
        """Return the norms over D."""
        return torch.cat(list(self.by_rows(lambda rows, _: rows.norm(dim=-1))))

    def unit(self) -> BlockIncrements:
        """Return increments that are normalised over D on access, so that nothing is held twice."""
        return BlockIncrements(self.blocks, normalised=True)

    def by_video(self, world: World = SINGLE) -> DenseIncrements:
        """Join the blocks into one tensor: all of [B, V, D]."""
        return DenseIncrements(self.rows(0, self.texts)).by_video(world)


class FactorisedIncrements(Increments):
    """D_ij = sum over k of coefficients_ijk basis_ck, where c is the pair's context: its video, or its text.

    ``coefficients`` [B, V, K]; ``basis`` [C, K, D] with C = V, or C = B with ``per_text``. ``spread``: with dropout,
    where a context's pairs share one mask here, returns their moments as if every pair had its own mask.
    """

    def __init__(
        self,
        coefficients_BVK: Tensor,
        basis_CKD: Tensor,
        *,
        per_text: bool,
        spread: Callable[[], PairSpread] | None = None,
    ) -> None:
        self.coefficients_BVK, self.basis_CKD, self.per_text = coefficients_BVK, basis_CKD, per_text
        self._spread = spread
        self.texts, self.videos, _ = coefficients_BVK.shape
        self.dim = basis_CKD.shape[-1]

    def rows(self, start: int, stop: int) -> Tensor:
        """Form the rows by one batched product."""
        part = self.coefficients_BVK[start:stop]
        if self.per_text:
            return torch.bmm(part, self.basis_CKD[start:stop])
        return torch.bmm(part.transpose(0, 1), self.basis_CKD).transpose(0, 1)

    def lengths(self) -> Tensor:
        """Compute the lengths from the Gram matrices of the basis."""
        squares = self.squares()
        positive = squares > 0
        return torch.where(positive, squares, 1.0).sqrt() * positive  # the slope of sqrt at 0 is infinite

    def unit(self) -> FactorisedIncrements:
        """Divide the coefficients by the lengths."""
        scaled, spread = self.coefficients_BVK / self.lengths().clamp(min=1e-12)[..., None], self._spread
        unit = None if spread is None else lambda: spread().unit()
        return FactorisedIncrements(scaled, self.basis_CKD, per_text=self.per_text, spread=unit)

    def video_moments(self, world: World = SINGLE) -> tuple[Tensor, Tensor]:
        """Compute the moments from those of the coefficients if a video has one basis; nothing of size [B, V, D]."""
        if self.per_text:
            return super().video_moments(world)
        if self._spread is not None:
            return self._spread().moments(world)
        count = self.texts * world.size
        mean_VK = world.sum(self.coefficients_BVK.sum(dim=0)) / count
        centred_VBK = (self.coefficients_BVK - mean_VK).transpose(0, 1)
        covariance = world.sum(torch.bmm(centred_VBK.mT, centred_VBK)) / max(count - 1, 1)
        return over_basis(mean_VK, covariance, self.basis_CKD)

    def text_moments(self) -> tuple[Tensor, Tensor]:
        """Compute the moments from those of the coefficients if a text has one basis; nothing of size [B, V, D]."""
        if not self.per_text:
            return super().text_moments()
        if self._spread is not None:
            return self._spread().moments()
        mean_BK = self.coefficients_BVK.mean(dim=1)
        centred_BVK = self.coefficients_BVK - mean_BK[:, None]
        covariance = torch.bmm(centred_BVK.mT, centred_BVK) / max(self.videos - 1, 1)
        return over_basis(mean_BK, covariance, self.basis_CKD)

    def by_video(self, world: World = SINGLE) -> FactorisedIncrements:
        """Transpose; with several ranks, the coefficients are gathered."""
        own = world.own(self.texts) if world.size > 1 else slice(None)
        coefficients = world.gather(self.coefficients_BVK)[:, own].transpose(0, 1)
        basis = world.gather(self.basis_CKD) if self.per_text else self.basis_CKD[own]
        return FactorisedIncrements(coefficients, basis, per_text=not self.per_text)

    def squares(self) -> Tensor:
        """Return ||D_ij||^2, [B, V]."""
        coefficients = self.coefficients_BVK if self.per_text else self.coefficients_BVK.transpose(0, 1)
        gram = torch.bmm(self.basis_CKD, self.basis_CKD.mT)
        squares = (torch.bmm(coefficients, gram) * coefficients).sum(dim=-1)
        return squares if self.per_text else squares.T


def cuts(texts: int, videos: int, dim: int, numbers: int) -> list[tuple[int, int]]:
    """Return bounds of blocks of texts whose increments, and their cosines, take at most ``numbers`` numbers."""
    block = max(1, numbers // (videos * max(dim, videos)))
    return [(start, min(start + block, texts)) for start in range(0, texts, block)]


def _total(parts: Iterator[Tensor]) -> Tensor:
    total: Tensor = torch.stack(list(parts)).sum(dim=0)
    return total


def as_increments(delta: Tensor | Increments) -> Increments:
    """Wrap a plain tensor [B, V, D]; increments are returned unchanged."""
    return delta if isinstance(delta, Increments) else DenseIncrements(delta)

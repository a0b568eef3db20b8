"""What dropout drawn per pair does to increments that are computed with one mask per context: means and variances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
        """Mean and variance over a context's N others (``ranks``: over those of all ranks too), [C, D] each.

        The variance is what the unbiased one over masks and others comes to on average: that of the means, plus the
        mean of the masks' own.
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
        """The same directions at length 1: divided by the root of the mean squared length."""
        mean = _quadratic(self.coefficients, torch.bmm(self.basis, self.basis.mT))
        noise = _quadratic(self.weights, torch.bmm(self.hidden * self.gains.sum(dim=0), self.hidden.mT))
        length = (mean + noise).clamp(min=1e-24).sqrt()[..., None]
        return PairSpread(self.coefficients / length, self.basis, self.weights / length, self.hidden, self.gains)


def over_basis(mean_CK: Tensor, covariance_CKK: Tensor, basis_CKD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C, D] of vectors from those of their coefficients over a basis."""
    mean = torch.bmm(mean_CK[:, None], basis_CKD)[:, 0]
    return mean, (torch.bmm(covariance_CKK, basis_CKD) * basis_CKD).sum(dim=1).clamp(min=0)


def _quadratic(rows_CNK: Tensor, gram_CKK: Tensor) -> Tensor:
    return (torch.bmm(rows_CNK, gram_CKK) * rows_CNK).sum(dim=-1)

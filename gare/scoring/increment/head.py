"""The paper's head: the dense form, with its exact algebra for training and for a gallery."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from gare.scoring.head import PairScores
from gare.scoring.increment.algebra import IncrementFactors
from gare.scoring.increment.dense import DenseHead
from gare.scoring.increment.factorised import factorised_scores


class GareHead(DenseHead):
    """A head with an increment for every pair (the method's section 2)."""

    @override
    def factors(self) -> IncrementFactors | None:
        """Return the algebra; None for the residual queries, whose increments do not factorise."""
        return IncrementFactors(self) if self.cell.factorises else None

    @override
    def factorised(self, *pairs: Any, **named: Any) -> PairScores:
        return factorised_scores(self, *pairs, **named)

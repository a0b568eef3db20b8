"""InfoNCE, the three regularisers and the whole objective (the method's sections 3 and 7). No Ray, no MLflow."""

from gare.objective.ideal import IdealIncrement, ideal_increment, row_gradient
from gare.objective.nce import info_nce
from gare.objective.ranks import ALONE, Ranks, TorchRanks
from gare.objective.regularisers import direction_diversity, information_bottleneck, trust_region
from gare.objective.total import Terms, objective

__all__ = [
    "ALONE",
    "IdealIncrement",
    "Ranks",
    "Terms",
    "TorchRanks",
    "direction_diversity",
    "ideal_increment",
    "info_nce",
    "information_bottleneck",
    "objective",
    "row_gradient",
    "trust_region",
]

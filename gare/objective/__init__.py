"""InfoNCE, the three regularisers and the whole objective (the method's sections 3 and 7). No Ray, no MLflow."""

from gare.objective.nce import info_nce
from gare.objective.ranks import ALONE, Ranks, TorchRanks
from gare.objective.regularisers import direction_diversity, information_bottleneck, trust_region
from gare.objective.total import Terms, objective

__all__ = [
    "ALONE",
    "Ranks",
    "Terms",
    "TorchRanks",
    "direction_diversity",
    "info_nce",
    "information_bottleneck",
    "objective",
    "trust_region",
]

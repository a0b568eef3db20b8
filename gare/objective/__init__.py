"""InfoNCE, the three regularisers and the whole objective (the method's sections 3 and 7). No Ray, no MLflow."""

from gare.objective.ideal import IdealIncrement, ideal_increment, row_gradient
from gare.objective.loss import Terms, info_nce, objective
from gare.objective.regularisers import direction_diversity, information_bottleneck, trust_region
from gare.objective.world import SINGLE, TorchWorld, World

__all__ = [
    "SINGLE",
    "IdealIncrement",
    "Terms",
    "TorchWorld",
    "World",
    "direction_diversity",
    "ideal_increment",
    "info_nce",
    "information_bottleneck",
    "objective",
    "row_gradient",
    "trust_region",
]

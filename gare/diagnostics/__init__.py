"""Measures behind the paper's argument: the modality gap, the increments' geometry, the steps of theory and training.

Functions on tensors, and one figure, without Ray or MLflow.
"""

from gare.diagnostics.figure import increment_figure
from gare.diagnostics.measures import (
    PairState,
    StepComparison,
    Summary,
    alignment,
    angles,
    compare_steps,
    gradient_tension,
    increment_spread,
    margins,
    modality_gap,
    observe,
    pair_diagnostics,
    positives_and_negatives,
    relative_length,
    spread,
    step_diagnostics,
    uniformity,
)
from gare.diagnostics.pairs import diagnose_split

__all__ = [
    "PairState",
    "StepComparison",
    "Summary",
    "alignment",
    "angles",
    "compare_steps",
    "diagnose_split",
    "gradient_tension",
    "increment_figure",
    "increment_spread",
    "margins",
    "modality_gap",
    "observe",
    "pair_diagnostics",
    "positives_and_negatives",
    "relative_length",
    "spread",
    "step_diagnostics",
    "uniformity",
]

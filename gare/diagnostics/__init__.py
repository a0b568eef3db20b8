"""Measures behind the paper's argument: the modality gap, the increments' geometry, the steps of theory and training.

Functions on tensors, and one figure, without Ray or MLflow.
"""

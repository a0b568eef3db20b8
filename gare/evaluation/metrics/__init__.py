"""Ranks, recall, intervals and paired comparison. Plain NumPy: no torch, no model."""

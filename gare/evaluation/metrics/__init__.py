"""Ranks, recall, intervals and paired comparison in plain NumPy, without torch or a model."""

"""Evaluate a model on a split: raw and post-processed figures, files and a page."""

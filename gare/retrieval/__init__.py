"""Exact scoring, metrics, index and search."""

"""The two loops that benchmarks/training.py compares on a GPU."""

"""Torch-free basics shared by the three packages."""

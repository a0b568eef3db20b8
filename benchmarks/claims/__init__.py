"""Measure and report the experiments of docs/results.md: sweeps of ``gare sweep``, chosen on dev, reported on test."""

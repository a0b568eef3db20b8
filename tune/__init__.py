"""Sweeps: Ray Tune over the settings of the experiment, each trial a Ray Train run."""

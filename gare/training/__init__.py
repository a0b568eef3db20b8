"""The training step, loop, encoding, optimiser, numerics and observation."""

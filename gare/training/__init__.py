"""One step, one loop, checkpoints, ranks; Ray Train in one file."""

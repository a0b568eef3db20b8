"""Check on one GPU in a few minutes what a CPU cannot show: ``make gpu-check``."""

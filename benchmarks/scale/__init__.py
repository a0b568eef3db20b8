"""Scale by simulation (``benchmarks/scaling.py``) and by calculation (``benchmarks/scale_costs.py``)."""

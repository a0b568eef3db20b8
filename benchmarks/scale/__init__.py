"""Scale by simulation (``benchmarks/scaling.py``) and on paper (``benchmarks/scale_costs.py``)."""

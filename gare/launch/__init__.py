"""Start a run, in this process or on Ray; watch, record and plan it."""

"""Where a run runs: in this process or on Ray, how it is watched and recorded, and what it will need."""

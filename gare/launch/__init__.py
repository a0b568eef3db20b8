"""Starting a run, in this process or on Ray; watching and recording it; planning it."""

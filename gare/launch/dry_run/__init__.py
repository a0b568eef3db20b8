"""Plan a run before anything is decoded, loaded or allocated."""

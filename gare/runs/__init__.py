"""A run on disk: its data, layout, record, checkpoints, and its copy on storage."""

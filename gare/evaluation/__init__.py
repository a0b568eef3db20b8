"""From a model and a split to raw and post-processed figures, files and a page."""

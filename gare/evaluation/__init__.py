"""From a model and a split to figures, post-processed figures beside them, files and a page."""

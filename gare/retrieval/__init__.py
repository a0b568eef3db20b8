"""A gallery of encoded videos on disk, and search in it. No Ray, no MLflow."""

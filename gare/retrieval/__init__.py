"""Keep a gallery of encoded videos on disk and search it, without Ray or MLflow."""

"""Serve an index over HTTP: a page to search in and a JSON API, without Ray or MLflow."""

"""Make a manifest from a table of captions in CSV, JSON lines or Parquet, or from a folder of videos."""

"""Make a manifest from a table of captions in CSV, JSON lines or Parquet, or from a folder of videos."""

from __future__ import annotations

from pipelines.manifest.sources.folder import GALLERY, VIDEO_SUFFIXES, Segments, from_folder
from pipelines.manifest.sources.options import Made, SourceOptions
from pipelines.manifest.sources.tables import from_csv, from_jsonl, from_parquet

__all__ = [
    "GALLERY",
    "VIDEO_SUFFIXES",
    "Made",
    "Segments",
    "SourceOptions",
    "from_csv",
    "from_folder",
    "from_jsonl",
    "from_parquet",
]

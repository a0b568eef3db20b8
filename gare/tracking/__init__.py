"""Trackers: MLflow, and the others in ``gare.tracking.trackers.TRACKERS``.

A run's own files are its record; ``sync`` brings a tracker up to date with them.
"""

from gare.tracking.begin import begin
from gare.tracking.environment import environment, resolve_uri
from gare.tracking.names import RunHandle, markdown_table, metric_name
from gare.tracking.record import RECORD_FILE, Status, forget, note_down, read_handle, read_record
from gare.tracking.sync import sync, syncing

__all__ = [
    "RECORD_FILE",
    "RunHandle",
    "Status",
    "begin",
    "environment",
    "forget",
    "markdown_table",
    "metric_name",
    "note_down",
    "read_handle",
    "read_record",
    "resolve_uri",
    "sync",
    "syncing",
]

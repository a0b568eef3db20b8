"""MLflow: runs, parameters, metrics, artifacts and models. The only part of gare/ that knows it.

Everything goes through ``MlflowClient`` with an explicit store; nothing touches MLflow's global state.
"""

from gare.tracking.environment import environment, resolve_uri
from gare.tracking.feed import Feed, feeding
from gare.tracking.names import RunHandle, markdown_table, metric_name
from gare.tracking.tracker import Status, Tracker, log_report, replay

__all__ = [
    "Feed",
    "RunHandle",
    "Status",
    "Tracker",
    "environment",
    "feeding",
    "log_report",
    "markdown_table",
    "metric_name",
    "replay",
    "resolve_uri",
]

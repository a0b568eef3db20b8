"""GARE: text-video retrieval with a learned increment for every text-video pair.

The public names are ``__all__``. Importing this package loads no torch, Ray or pyarrow; each name imports what it
needs when you first use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gare.api.checkpoint import load_model
    from gare.api.compare import EvaluationComparison, compare
    from gare.api.evaluate import EvaluationResult, evaluate
    from gare.api.prepare import prepare
    from gare.api.search import index, maintain, search
    from gare.api.serve import serve
    from gare.api.sweep import sweep
    from gare.api.train import train
    from gare.common.errors import ConfigError, GareError, InputError, RunError
    from gare.config import Config
    from gare.config.tree import load_config
    from gare.model import GareModel
    from gare.retrieval.index import Hit, Hits, SearchIndex
    from gare.runs.state import RunSummary
    from gare.scoring.video_index import VideoIndex
    from pipelines.prepare.job import PrepareReport
    from tune.comparison import Comparison
    from tune.sweep import SweepReport

__version__ = "0.1.0"

_MODULES = {
    "gare.api.checkpoint": ("load_model",),
    "gare.api.compare": ("EvaluationComparison", "compare"),
    "gare.api.evaluate": ("EvaluationResult", "evaluate"),
    "gare.api.prepare": ("prepare",),
    "gare.api.search": ("index", "maintain", "search"),
    "gare.api.serve": ("serve",),
    "gare.api.sweep": ("sweep",),
    "gare.api.train": ("train",),
    "gare.common.errors": ("ConfigError", "GareError", "InputError", "RunError"),
    "gare.config": ("Config",),
    "gare.config.tree": ("load_config",),
    "gare.model": ("GareModel",),
    "gare.retrieval.index": ("Hit", "Hits", "SearchIndex"),
    "gare.runs.state": ("RunSummary",),
    "gare.scoring.video_index": ("VideoIndex",),
    "pipelines.prepare.job": ("PrepareReport",),
    "tune.comparison": ("Comparison",),
    "tune.sweep": ("SweepReport",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Comparison",
    "Config",
    "ConfigError",
    "EvaluationComparison",
    "EvaluationResult",
    "GareError",
    "GareModel",
    "Hit",
    "Hits",
    "InputError",
    "PrepareReport",
    "RunError",
    "RunSummary",
    "SearchIndex",
    "SweepReport",
    "VideoIndex",
    "__version__",
    "compare",
    "evaluate",
    "index",
    "load_config",
    "load_model",
    "maintain",
    "prepare",
    "search",
    "serve",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gare' has no attribute {name!r}")
    # By name, so that no package depends on this one's imports.
    if not _HOME[name].startswith("gare.") or _HOME[name].startswith("gare.api."):
        importlib.import_module("gare.api").refuse_namesakes()
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

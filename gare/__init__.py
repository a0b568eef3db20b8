"""GARE: text-video retrieval with a learned increment for every text-video pair.

Importing this package loads no torch and no Ray; names that need them are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gare.model import GareModel, load_model

__version__ = "0.1.0"
__all__ = ["GareModel", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name in {"GareModel", "load_model"}:
        import gare.model

        return getattr(gare.model, name)
    raise AttributeError(f"module 'gare' has no attribute {name!r}")

"""Keep what each stage found: a line on the screen and, at once, an entry of a JSON file."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from gare.common.files import write_json

Found = dict[str, Any]


class Skipped(Exception):  # noqa: N818 - no error
    """Raised by a stage that cannot run here, with the reason."""


class Report:
    """The stages so far. A run that is cut leaves those that had ended."""

    def __init__(self, path: Path, limit_s: float, **about: Any) -> None:
        self._path, self._limit_s, self._begun = path, limit_s, time.monotonic()
        self._content: Found = {**about, "stages": {}}

    def run(self, name: str, stage: Callable[[], Found]) -> None:
        """Run a stage and keep what it returns: ``passed`` is False if one of its checks failed or it raised."""
        begun = time.monotonic()
        if begun - self._begun > self._limit_s:
            return self._keep(name, {"skipped": f"the {self._limit_s:.0f} s of this run were over"}, 0.0)
        try:
            found = stage()
        except Skipped as reason:
            found = {"skipped": str(reason)}
        except Exception as error:  # a stage that fails must not take the others with it  # noqa: BLE001
            found = {"passed": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
        return self._keep(name, found, time.monotonic() - begun)

    @property
    def failed(self) -> list[str]:
        """The stages whose checks failed."""
        return [name for name, found in self._content["stages"].items() if found.get("passed") is False]

    def _keep(self, name: str, found: Found, seconds: float) -> None:
        # JSON has no NaN and no infinity.
        kept = {
            key: str(value) if isinstance(value, float) and not isfinite(value) else value
            for key, value in found.items()
        }
        self._content["stages"][name] = kept | {"seconds": round(seconds, 1)}
        write_json(self._path, self._content)
        mark = "skipped" if "skipped" in found else "FAILED" if found.get("passed") is False else "ok"
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in found.items() if key != "passed")
        print(f"{name}: {mark} ({seconds:.1f} s)  {shown}", flush=True)


def within(found: Found, bounds: dict[str, float]) -> Found:
    """Add ``passed``: whether each of these figures is at most its bound; NaN is not."""
    return found | {"passed": all(found[name] <= bound for name, bound in bounds.items()), "bounds": bounds}


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

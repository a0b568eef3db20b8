"""The record of a sweep, ``sweep.json``: its settings and what became of every trial."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gare.common.errors import InputError
from gare.common.files import write_json
from gare.config import Config
from gare.config.tree import build

SWEEP_FILE = "sweep.json"
VERSION = 1

TrialStatus = Literal["pending", "running", "done", "stopped", "failed"]


@dataclass
class Trial:
    """One trial.

    ``metrics``: of its best checkpoint, keys like ``dev/t2v/R@1``, NaN left out. ``seconds``: wall time over
    its attempts. ``stopped``: ended early by the scheduler; ``failed``: ``error`` says why, in one line.
    """

    name: str
    overrides: dict[str, Any]
    directory: str
    status: TrialStatus = "pending"
    metrics: dict[str, float] = field(default_factory=dict)
    best: str | None = None
    error: str | None = None
    seconds: float = 0.0
    run_id: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it, now."""
        return self.status in {"done", "stopped", "failed"}


@dataclass
class Ledger:
    """A sweep: the settings all trials share, as a plain tree, and its trials in order."""

    name: str
    key: str
    config: dict[str, Any]
    trials: list[Trial]
    run_id: str | None = None
    version: int = VERSION

    def settings(self) -> Config:
        """Rebuild the settings all trials share; ConfigError when this version no longer has them."""
        return build(self.config, f"the settings in {SWEEP_FILE}")

    def write(self, folder: Path) -> None:
        """Replace the folder's record, atomically."""
        write_json(folder / SWEEP_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """Read the record of a sweep's folder; InputError when it has none or a damaged one."""
        path = folder / SWEEP_FILE
        if not path.is_file():
            raise InputError(f"{folder} holds no {SWEEP_FILE}; give the folder of a gare sweep.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["version"] != VERSION:
                raise InputError(f"{path} has version {values['version']}; this gare reads version {VERSION}.")
            build(values["config"], str(path))
            return cls(**values | {"trials": [_trial(trial) for trial in values["trials"]]})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


def _trial(values: dict[str, Any]) -> Trial:
    return Trial(**values | {"overrides": dict(values["overrides"]), "metrics": finite(values.get("metrics", {}))})


def finite(metrics: dict[str, Any]) -> dict[str, float]:
    """Keep the entries that are finite numbers."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }

"""The authoritative record of a sweep, ``sweep.json``: its settings and the state of every trial.

Ray Tune's own state is discarded with each launch: a sweep continues from this file and its trials' run folders alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gare.common.errors import InputError
from gare.common.files import write_json
from gare.common.records import STRICT, checked, load_json
from gare.common.redact import first_line, shown
from gare.common.storage import read_file
from gare.config import Config
from gare.config.tree import build_saved, check_key
from gare.runs.layout import moved

SWEEP_FILE = "sweep.json"
VERSION = 2
READABLE = (1, 2)
SEED = "train.seed"
MAX_BYTES = 256 * 2**20

Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0)]

TrialStatus = Literal["pending", "running", "done", "stopped", "failed"]
Stage = Literal["search", "confirm"]


@dataclass
class Trial:
    """One trial.

    ``metrics``: of its best checkpoint, keys like ``dev/t2v/R@1``, NaN left out. ``seconds``: wall time over its
    attempts. ``stopped``: ended early by the scheduler; ``failed``: ``error`` says why, in one line. ``stage``:
    ``confirm`` for the best settings of a search, trained over all seeds. ``attempts``: number of starts. ``train_s``:
    seconds of training alone, and ``epochs``: complete ones, both from its run's own record.
    """

    __pydantic_config__ = STRICT

    name: str
    overrides: dict[str, Any]
    directory: str
    status: TrialStatus = "pending"
    metrics: dict[str, float] = field(default_factory=dict)
    best: str | None = None
    error: str | None = None
    seconds: Seconds = 0.0
    run_id: str | None = None
    case: str | None = None
    stage: Stage = "search"
    attempts: Count = 0
    train_s: Seconds = 0.0
    epochs: Count = 0

    @property
    def ended(self) -> bool:
        """Return True if this launch is done with it."""
        return self.status in {"done", "stopped", "failed"}

    @property
    def settled(self) -> bool:
        """Return True if it ended well, so that it is not trained again."""
        return self.status in {"done", "stopped"}


@dataclass
class Launch:
    """One launch of the sweep: its wall time so far, in seconds, and the number of trials at a time."""

    __pydantic_config__ = STRICT

    slots: Count
    wall_s: Seconds = 0.0


@dataclass
class SweepRecord:
    """A sweep: the settings that all trials share, as a plain tree, and its trials in order.

    ``extended``: how many of ``sweep.trials`` were added later. ``dataset``: the digests of the shards that all trials
    read, empty in records of version 1.
    """

    __pydantic_config__ = STRICT

    name: str
    key: str
    config: dict[str, Any]
    trials: list[Trial]
    run_id: str | None = None
    extended: Count = 0
    dataset: dict[str, str] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    version: int = VERSION

    def settings(self) -> Config:
        """Rebuild the settings that all trials share; ConfigError if this version no longer has them."""
        return build_saved(self.config, f"the settings in {SWEEP_FILE}")

    def write(self, folder: Path) -> None:
        """Replace the folder's record, atomically."""
        write_json(folder / SWEEP_FILE, asdict(self))

    def overhead(self) -> float | None:
        """Return wall time x slots / the trials' training time - 1, over all launches; None if unknown."""
        training = sum(trial.train_s for trial in self.trials)
        spent = sum(launch.wall_s * launch.slots for launch in self.launches)
        return spent / training - 1 if training > 0 and spent > 0 else None

    @classmethod
    def read(cls, folder: Path) -> SweepRecord:
        """Read the record of a sweep's folder, in version 1 too, with its places updated after a move.

        Raises InputError if it has none or a damaged one.
        """
        path = folder / SWEEP_FILE
        text = read_file(path)
        if text is None:
            raise InputError(f"{folder} holds no {SWEEP_FILE}; give the folder of a gare sweep.")
        try:
            values = load_json(text, nan=True)
            if values["version"] not in READABLE:
                raise InputError(
                    f"{path} has version {shown(values['version'])}; this gare reads versions 1 and {VERSION}."
                )
            config = build_saved(values["config"], str(path))
            if (here := moved(config, folder)) != config:
                values["config"] = here.model_dump(mode="json")
            trials = [trial | {"metrics": finite(trial.get("metrics", {}))} for trial in values["trials"]]
            record = checked(cls, values | {"trials": trials, "version": VERSION})
            for trial in record.trials:
                for key in trial.overrides:
                    check_key(key)
                if type(trial.overrides.get(SEED, 0)) is not int:
                    raise ValueError(f"{SEED} is {shown(trial.overrides[SEED])}")  # noqa: TRY301
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}: {first_line(error)}).") from None
        for trial in record.trials:
            _find(trial, folder.resolve())
        return record


def _find(trial: Trial, folder: Path) -> None:
    """Correct the places of a trial whose sweep was moved to ``folder``."""
    before, here = Path(trial.directory), folder / trial.name
    if before.name == trial.name and before.resolve() != here:
        trial.directory = str(here)
        if trial.best is not None and Path(trial.best).is_relative_to(before):
            trial.best = str(here / Path(trial.best).relative_to(before))


def finite(metrics: dict[str, Any]) -> dict[str, float]:
    """Keep the entries that are finite numbers."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**63)
    }

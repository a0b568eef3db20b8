"""A run's own records: its progress (``run.json``) and its measurements (``history.jsonl``)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gare import __version__
from gare.common.errors import InputError
from gare.common.files import os_errors_as_input, write_json, write_text
from gare.common.records import STRICT, checked, load_json
from gare.common.storage import Folder, read_file
from gare.config import Config
from gare.runs.layout import CHECKPOINT_NAME, CHECKPOINTS, RUN_FILE, run_directory

OBJECTIVE = 2
"""The version of what a run computes.

2: the bottleneck of factorised increments uses the spread of dropout drawn per pair (1: per context), and RandAugment
warps as released.
"""

Count = Annotated[int, Field(ge=0, lt=2**53)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
Checkpoint = Annotated[str, Field(pattern=f"^{CHECKPOINT_NAME.pattern}$")]


@dataclass(frozen=True)
class RunSummary:
    """The result of a run. ``seconds`` is training's wall time.

    ``resumed_from`` and ``resumed_step``: complete epochs and steps at its resume; None for a new run. ``best`` is the
    checkpoint chosen on dev (``selected_by``) or the last one; ``best_metrics`` has keys like ``dev/t2v/R@1`` and is
    empty for the last one.
    """

    name: str
    directory: Path
    best: Path
    best_metrics: dict[str, float]
    epochs: int
    steps: int
    seconds: float
    resumed_from: int | None = None
    resumed_step: int | None = None
    already_finished: bool = False
    selected_by: str = ""


@dataclass
class RunState:
    """The run's own record, ``run.json``: its progress, its checkpoints, and how the best one is chosen.

    ``epoch``: complete epochs; ``batch``: completed batches of the next one; ``step``: steps in all. ``kept``: the best
    checkpoints by name with the dev metric that ranks them, best first. ``init_from``: the checkpoint whose weights the
    run began with, and their digest. ``decided``: decisions of the training machine, such as the device. ``objective``:
    the version of the loss that it began with (``OBJECTIVE``). ``extended``: epochs added to the finished run, by each
    ``gare train --extend``.
    """

    __pydantic_config__ = STRICT

    config_digest: str
    dataset_digest: str
    selected_by: str = ""
    version: str = __version__
    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    finished: bool = False
    last: Checkpoint | None = None
    best: Checkpoint | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    kept: dict[Checkpoint, float] = field(default_factory=dict)
    init_from: dict[str, str] | None = None
    decided: dict[str, Any] = field(default_factory=dict)
    objective: Count = 1
    extended: list[Epochs] = field(default_factory=list)

    def epochs(self, config: Config) -> int:
        """Return the epochs of the run, including those of its extensions."""
        return sum(self.stages(config))

    def stages(self, config: Config) -> list[int]:
        """Return the epochs of each stage with its own schedule: the settings', then those of every extension."""
        return [config.train.epochs, *self.extended]

    @property
    def trains(self) -> tuple[str, str]:
        """Return the digests of experiment and dataset."""
        return self.config_digest, self.dataset_digest

    @property
    def named(self) -> set[str]:
        """Return the names of the checkpoints that are kept."""
        return {name for name in (self.last, self.best, *self.kept) if name is not None}


def progress(epoch: int, step: int) -> str:
    """Format a run's progress."""
    return f"epoch {epoch} (step {step})"


def selected_by(config: Config) -> str:
    """Return the criterion for the best checkpoint: a metric on the dev split, or being the last."""
    if config.protocol.dev == "none":
        return "last epoch"
    return f"{config.data.dev_split} {config.train.select_by}"


def read_state(folder: Path) -> RunState | None:
    """Read the record of a run's folder; None if there is none."""
    text = read_file(folder / RUN_FILE)
    return None if text is None else parse_state(text, str(folder / RUN_FILE))


def parse_state(content: str | bytes, place: str) -> RunState:
    """Read a run's record from its text; InputError, naming its ``place``, if it is damaged."""
    try:
        return checked(RunState, load_json(content))
    except ValueError as error:
        raise InputError(f"{place} is damaged ({error}); remove the folder or choose another runtime.name.") from None


def resumed(state: RunState) -> tuple[int, int] | None:
    """Return the complete epochs and steps from which a run resumes; None without a checkpoint."""
    return (state.epoch, state.step) if state.last is not None else None


def write_state(folder: Path, state: RunState) -> None:
    """Record the run's progress, atomically."""
    write_json(folder / RUN_FILE, asdict(state))


def summary(
    config: Config, state: RunState, *, resumed: tuple[int, int] | None = None, already: bool = False
) -> RunSummary:
    """Summarise a finished run. ``resumed``: complete epochs and steps at its resume, if it was resumed."""
    folder = run_directory(config)
    return RunSummary(
        name=config.run_name(),
        directory=folder,
        best=folder / CHECKPOINTS / str(state.best),
        best_metrics=state.best_metrics,
        epochs=state.epoch,
        steps=state.step,
        seconds=state.seconds,
        resumed_from=resumed[0] if resumed else None,
        resumed_step=resumed[1] if resumed else None,
        already_finished=already,
        selected_by=state.selected_by,
    )


def resolve_checkpoint(path: str | Path) -> Path:
    """Return a checkpoint folder, given itself or its run's folder (then the best one)."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give a checkpoint or the folder of a run.")
    state = read_state(folder)
    if state is None:
        return folder
    if state.best is None:
        raise InputError(f"The run {folder} has no checkpoint yet.")
    return folder / CHECKPOINTS / state.best


OnRow = Callable[[dict[str, Any]], None]
"""Called on rank 0 with every entry as it is recorded."""


class History:
    """The run's measurements, a JSON line per entry, cut to the run's present step."""

    def __init__(self, path: Path, step: int, on_row: OnRow | None = None) -> None:
        self._path, self._on_row = path, on_row
        rows = read_history(path)
        kept = [row for row in rows if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        # A run killed between recording and reporting an epoch would never report it.
        self._fresh: list[dict[str, Any]] = last_epoch(kept)

    def add(self, step: int, total: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Append one entry, with the time of day in seconds since 1970."""
        row = {"step": step, "total": total, "seconds": round(seconds, 3), "time": round(time.time(), 3), **values}
        self._fresh.append(row)
        with os_errors_as_input(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        if self._on_row is not None:
            self._on_row(row)

    def take(self) -> list[dict[str, Any]]:
        """Return the entries added since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


def last_epoch(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries since the end of the last epoch but one."""
    ends = [number for number, row in enumerate(rows) if "epoch" in row]
    return rows[ends[-2] + 1 if len(ends) > 1 else 0 :]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read every complete entry of a history file; empty if it is missing, StorageError if it cannot be read."""
    try:
        content = Folder.at(path.parent).read_bytes(path.name)
    except FileNotFoundError:
        return []
    rows = []
    for line in content.decode(errors="replace").splitlines():  # a killed writer may have left half a line
        try:
            row = load_json(line, nan=True)
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0:
            rows.append(row)
    return rows

"""A training run: its folder, its resume rule, what it returns."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gare import __version__
from gare.common.errors import ConfigError, InputError
from gare.common.files import write_json
from gare.common.records import STRICT, checked, load_json
from gare.common.storage import is_address, read_file
from gare.config import Config
from gare.config.tree import build

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
CHECKPOINTS = "checkpoints"
DIAGNOSTICS = "diagnostics"
CHECKPOINT_FILE = "checkpoint.json"
OBJECTIVE = 2
"""2: the bottleneck of factorised increments has the spread of dropout drawn per pair, before of one per context; and
RandAugment warps as released."""
PLACES = ("model.clip", "train.init_from")
CHECKPOINT_NAME = re.compile(r"(epoch|step)-\d+")
MAX_STATE = 16 * 2**20

Count = Annotated[int, Field(ge=0, lt=2**53)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
Checkpoint = Annotated[str, Field(pattern=f"^{CHECKPOINT_NAME.pattern}$")]


@dataclass(frozen=True)
class RunSummary:
    """What a run came to. ``seconds`` is training's wall time.

    ``resumed_from`` and ``resumed_step``: whole epochs and steps that were done when it went on; None for a new run.

    ``best`` is the checkpoint that was ``selected_by`` dev, or the last one; ``best_metrics`` has keys like
    ``dev/t2v/R@1`` and is empty for the last one.
    """

    name: str
    directory: str
    best: str
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
    """The run's own record, ``run.json``: how far it is, which checkpoints count, and what chooses the best one.

    ``epoch``: whole epochs done; ``batch``: batches of the next one done; ``step``: steps in all. ``kept``: the best
    checkpoints by name with the dev metric that ranks them, best first. ``init_from``: the checkpoint whose weights
    the run began with, and their digest. ``decided``: what the machine that trains it decided, such as the device.
    ``objective``: which form of the loss it began with, of those that ever differed (``OBJECTIVE``). ``extended``:
    epochs added to the finished run, by each ``gare train --extend``.
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
        """Epochs of the run, those it was extended by included."""
        return sum(self.stages(config))

    def stages(self, config: Config) -> list[int]:
        """Epochs of each stage that has a schedule of its own: the settings', then those of every extension."""
        return [config.train.epochs, *self.extended]

    @property
    def named(self) -> set[str]:
        """The names of the checkpoints that are kept."""
        return {name for name in (self.last, self.best, *self.kept) if name is not None}


def absolute(config: Config) -> Config:
    """The same experiment with its places absolute: workers run in other folders.

    ``model.clip`` stays as it was given, since it is part of the experiment; ``clip_source`` finds it from
    ``runtime.root``. Raises ConfigError for an output that is not on a file system.
    """
    values = config.model_dump(mode="json")
    runtime: dict[str, Any] = values["runtime"]
    root = Path(runtime["root"] or ".").resolve()
    if is_address(runtime["output"]):
        raise ConfigError(
            f"runtime.output is {runtime['output']}, but runs are written in a folder of a file system; "
            "set runtime.storage to the address, and they are copied there and taken up from there."
        )
    for name in ("output", "shards", "storage"):
        if runtime[name] is not None and not is_address(runtime[name]):
            runtime[name] = str(root / runtime[name])
    runtime |= {"root": str(root), "name": config.run_name()}
    return build(values)


def moved(config: Config, folder: Path) -> Config:
    """The settings saved for a run or sweep whose folder is now ``folder``, perhaps with the project around it.

    Absolute places below what was moved follow where they went along: they exist at the new place, and are gone from
    the old one or were copied with the shards. Unchanged where the folder was not moved, or has another name.
    """
    name = Path(config.run_name()).parts
    old, new = run_directory(config), folder.resolve()
    if not old.is_absolute() or old.resolve() == new or new.parts[-len(name) :] != name:
        return config
    output = new.parents[len(name) - 1]
    while old.name == new.name:
        old, new = old.parent, new.parent
    values = config.model_dump(mode="json")
    copied = _followed(values["runtime"]["shards"], old, new) is not None
    keys = ("runtime", "root"), ("runtime", "shards"), ("runtime", "storage"), ("model", "clip"), ("train", "init_from")
    for section, key in keys:
        there = _followed(values[section][key], old, new)
        if there is not None and ((section == "runtime" and copied) or not Path(values[section][key]).exists()):
            values[section][key] = there
    values["runtime"]["output"] = str(output)
    return build(values)


def _followed(place: str | None, old: Path, new: Path) -> str | None:
    """Where a place below ``old`` is below ``new``; None where it is not there."""
    if place is None or not Path(place).is_relative_to(old):
        return None
    there = new / Path(place).relative_to(old)
    return str(there) if there.exists() else None


def from_root(config: Config, path: str) -> Path:
    """Where a relative path of the settings is: below ``runtime.root``."""
    return Path(config.runtime.root or ".") / path


def clip_source(config: Config) -> str:
    """Where ``model.clip`` is: the folder of that name below ``runtime.root`` if there is one, else a hub id."""
    folder = from_root(config, config.model.clip)
    return str(folder) if folder.is_dir() else config.model.clip


def progress(epoch: int, step: int) -> str:
    """How far a run is, in words."""
    return f"epoch {epoch} (step {step})"


def selected_by(config: Config) -> str:
    """What makes a checkpoint the run's best one: a metric on the dev split, or being the last."""
    if config.protocol.dev == "none":
        return "last epoch"
    return f"{config.data.dev_split} {config.train.select_by}"


def run_directory(config: Config) -> Path:
    """The folder of this run: ``runtime.output`` / its name."""
    return Path(config.runtime.output) / config.run_name()


def read_state(folder: Path) -> RunState | None:
    """The record of a run's folder, or None where there is none."""
    text = read_file(folder / RUN_FILE)
    return None if text is None else parse_state(text, str(folder / RUN_FILE))


def parse_state(content: str | bytes, place: str) -> RunState:
    """Read a run's record from its text; InputError, naming its ``place``, where it is damaged."""
    try:
        return checked(RunState, load_json(content))
    except ValueError as error:
        raise InputError(f"{place} is damaged ({error}); remove the folder or choose another runtime.name.") from None


def resumed(state: RunState) -> tuple[int, int] | None:
    """Whole epochs and steps a run goes on from; None where it has no checkpoint."""
    return (state.epoch, state.step) if state.last is not None else None


def write_state(folder: Path, state: RunState) -> None:
    """Record how far the run is, atomically."""
    write_json(folder / RUN_FILE, asdict(state))


def summary(
    config: Config, state: RunState, *, resumed: tuple[int, int] | None = None, already: bool = False
) -> RunSummary:
    """What a finished run came to. ``resumed``: whole epochs and steps it went on from, if it did."""
    folder = run_directory(config)
    return RunSummary(
        name=config.run_name(),
        directory=str(folder),
        best=str(folder / CHECKPOINTS / str(state.best)),
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
    """A checkpoint folder from itself or from the folder of its run (then the best one)."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give a checkpoint or the folder of a run.")
    state = read_state(folder)
    if state is None:
        return folder
    if state.best is None:
        raise InputError(f"The run {folder} has no checkpoint yet.")
    return folder / CHECKPOINTS / state.best

"""A training run: its folder, its resume rule, what it returns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gare import __version__
from gare.common.errors import ConfigError, InputError
from gare.common.files import digest_of, make_folder, write_json, write_text
from gare.common.occupied import refuse_occupied
from gare.common.records import STRICT, checked, load_json
from gare.common.storage import is_address, read_file
from gare.config import NOT_THE_EXPERIMENT, Config, without_later, yaml
from gare.config.tree import build, build_saved, diff, to_yaml

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


def open_run(config: Config, dataset_digest: str) -> RunState:
    """Start the run's folder, or take up the one that is there.

    What an attempt left that ended before its first checkpoint gives way to other settings. Raises ConfigError when
    the folder holds another experiment or other data.
    """
    folder = run_directory(config)
    state = read_state(folder)
    wanted = (config.digest(), dataset_digest)
    if config.train.init_from is not None and (state is None or state.last is None):
        initial_checkpoint(config)
    if state is None:
        refuse_occupied(folder)
        _refuse_orphans(folder)
    if state is None or (state.last is None and (state.config_digest, state.dataset_digest) != wanted):
        make_folder(folder)
        write_text(folder / CONFIG_FILE, to_yaml(config))
        state = RunState(config.digest(), dataset_digest, selected_by(config), objective=OBJECTIVE)
        write_state(folder, state)
        return state
    refuse_other(config, folder, state, dataset_digest)
    return state


def _refuse_orphans(folder: Path) -> None:
    """InputError for checkpoints of a run whose record is lost: begun anew, it would remove them."""
    above = folder / CHECKPOINTS
    names = [path.name for path in above.iterdir()] if above.is_dir() else []
    left = sorted(name for name in names if CHECKPOINT_NAME.fullmatch(name))
    if left:
        raise InputError(
            f"{folder} holds checkpoints ({', '.join(left[-3:])}), but {RUN_FILE}, which says how far the run is, is "
            "gone. Nothing was changed: put that file back, or choose another runtime.name."
        )


def refuse_other(
    config: Config, folder: Path, state: RunState, dataset_digest: str | None, *, extend: bool = False
) -> None:
    """ConfigError when a run's folder holds another experiment or other data; None where the data is not known.

    ``extend``: a finished run is to be trained further.
    """
    if state.config_digest != config.digest() and (keys := _changed(config, folder, state)):
        raise ConfigError(
            f"The run {folder} holds another experiment ({', '.join(keys[:5])} differ); choose another runtime.name."
        )
    if dataset_digest is not None and state.dataset_digest != dataset_digest:
        raise ConfigError(
            f"The run {folder} was trained on other shards (dataset {state.dataset_digest}, not {dataset_digest}); "
            "choose another runtime.name."
        )
    before = outdated(config, state)
    if before is not None and state.last is not None and (extend or not state.finished):
        raise ConfigError(f"The run {folder} began when {before}. Start again under another runtime.name.")


def outdated(config: Config, state: RunState) -> str | None:
    """Say what was computed otherwise when a run began, of what its settings use; None where nothing was."""
    if state.objective >= OBJECTIVE:
        return None
    term = config.objective.information_bottleneck
    if term.weight and config.shared_anchor() == term.anchor:
        return (
            "objective.information_bottleneck of factorised increments was about three times as large, as their "
            "dropout was taken"
        )
    if config.data.augment == "rand":
        return "data.augment rand warped pictures by another interpolation and filled with black"
    return None


def _changed(config: Config, folder: Path, state: RunState) -> list[str]:
    """The keys by which the experiment of a run's folder is another one; ``RUN_FILE`` where no key says so.

    A setting that came after the run was begun is no difference where it has its default; nor is a folder that moved.
    """
    values = yaml.read(folder / CONFIG_FILE)
    saved = build_saved(values, str(folder / CONFIG_FILE))
    keys = [
        key
        for key, (before, now) in diff(saved, config).items()
        if not key.startswith(("runtime.", "sweep.")) and not (key in PLACES and _was_moved(before, now))
    ]
    return keys or ([] if state.config_digest in _names(values) | {saved.digest()} else [RUN_FILE])


def _was_moved(before: str | None, now: str | None) -> bool:
    """Whether a folder that is part of the experiment seems to be the one that was elsewhere before."""
    if before is None or now is None or not Path(before).is_absolute():
        return False
    return not Path(before).exists() and Path(now).is_dir() and Path(before).name == Path(now).name


def _names(values: Mapping[str, Any]) -> set[str]:
    """The digests that versions of this software gave to saved settings: each left out some of what came later."""
    tree = {name: dict(value) for name, value in values.items() if name not in NOT_THE_EXPERIMENT}
    return {digest_of(earlier) for earlier in without_later(tree)}


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


def initial_checkpoint(config: Config) -> Path:
    """The checkpoint folder of ``train.init_from``, which may name a run (then its best one).

    Raises ConfigError for a checkpoint that has seen the test split, unless this run may (``protocol.test``).
    """
    from gare.model.checkpoint import load_checkpoint_config
    from gare.training.storage import find_checkpoint  # it builds on this module

    place = str(config.train.init_from)
    folder = find_checkpoint(place if is_address(place) else from_root(config, place))
    if config.protocol.test == "held_out" and load_checkpoint_config(folder).protocol.test == "used":
        raise ConfigError(
            f"train.init_from names {folder}, which was trained or chosen on the test split by its settings "
            "(protocol.test is used there); begin with another checkpoint, or set protocol.test=used here too."
        )
    return folder


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

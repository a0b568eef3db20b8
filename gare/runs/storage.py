"""Keep a run's copy on storage (``runtime.storage``): every checkpoint goes there, and a run can continue from there.

With it, ``runtime.output`` may be a disk that other nodes do not see: a rank or a driver that starts elsewhere finds
the run on the storage. ``run.json`` is written last, so everything that it names is complete.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from gare.common.errors import ConfigError, InputError
from gare.common.files import atomic_directory, atomic_file, digest_of, make_folder
from gare.common.locks import held, waiting_lock
from gare.common.storage import Folder, is_address, read_file
from gare.config import Config
from gare.data.cache import cache_folder
from gare.runs.layout import CHECKPOINT_FILE, CHECKPOINT_NAME, CHECKPOINTS, CONFIG_FILE, HISTORY_FILE, RUN_FILE
from gare.runs.state import RunState, parse_state, read_state, resolve_checkpoint, write_state
from gare.tracking.record import FORMER_FILE, RECORD_FILE, changed_at

ALONGSIDE = (CONFIG_FILE, HISTORY_FILE, RECORD_FILE, FORMER_FILE)


class RunStorage:
    """The copy of one run; without ``runtime.storage`` every method does nothing.

    ``place``: the copy's place, None without one. Any failure of it is an InputError that names the file.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        storage = config.runtime.storage
        self._folder = folder
        self.place = None if storage is None else Folder.at(storage).below(config.run_name())

    def held(self) -> AbstractContextManager[None]:
        """Hold the copy while the block runs; RunError if another driver, perhaps elsewhere, has this run."""
        return nullcontext() if self.place is None else held(self.place)

    def pull(self) -> None:
        """Synchronise the run's folder and the copy: the one that is behind is updated.

        The newer tracking record stays. Raises ConfigError if they hold different experiments.
        """
        if self.place is None:
            return
        theirs, ours = _state_at(self.place), read_state(self._folder)
        if ours is not None and ours.last is not None:
            if theirs is not None and theirs.trains != ours.trains:
                raise ConfigError(f"{self._folder} and {self.place} hold different runs; choose another runtime.name.")
            if theirs is None or theirs.step < ours.step:
                self.push(ours)
        if theirs is not None and (ours is None or ours.last is None or ours.step < theirs.step):
            self._fetch(self.place, theirs)

    def push(self, state: RunState) -> None:
        """Copy the run as named by ``state``, and remove from the copy what it no longer names."""
        if self.place is None:
            return
        before = _state_at(self.place)
        there = set() if before is None else before.named
        for name in sorted(state.named - there):
            folder = self._folder / CHECKPOINTS / name
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    self.place.put(path, f"{CHECKPOINTS}/{name}/{path.relative_to(folder).as_posix()}")
        ours, theirs = self._records(self.place)
        for name in ALONGSIDE:
            if (self._folder / name).is_file() and not (name == RECORD_FILE and theirs > ours):
                self.place.put(self._folder / name, name)
        self.place.put(self._folder / RUN_FILE, RUN_FILE)
        for file in self.place.tree(CHECKPOINTS):
            name = file.partition("/")[0]
            if CHECKPOINT_NAME.fullmatch(name) and name not in state.named:
                self.place.remove(f"{CHECKPOINTS}/{file}")

    def checkpoint(self, name: str) -> None:
        """Fetch a checkpoint into the run's folder if it is missing; processes of one node wait for each other."""
        if self.place is not None:
            above = self._folder / CHECKPOINTS
            with waiting_lock(make_folder(above) / f".{_checked(name, self.place)}.lock"):
                _fetch_files(self.place.below(CHECKPOINTS).below(name), above / name)

    def _fetch(self, place: Folder, state: RunState) -> None:
        make_folder(self._folder)
        for name in sorted(state.named):
            self.checkpoint(name)
        ours, theirs = self._records(place)
        for name in ALONGSIDE:
            if place.exists(name) and not (name == RECORD_FILE and ours > theirs):
                with atomic_file(self._folder / name) as temporary:
                    place.fetch(name, temporary)
        write_state(self._folder, state)

    def _records(self, place: Folder) -> tuple[int, int]:
        """Return when the tracker's record was written, here and there: by the driver, perhaps on another node."""
        return changed_at(read_file(self._folder / RECORD_FILE)), changed_at(place.read_text(RECORD_FILE))


def find_checkpoint(place: str | Path) -> Path:
    """Return a local checkpoint folder from a folder or address, of itself or of its run (then the best one)."""
    if not is_address(str(place)):
        return resolve_checkpoint(place)
    folder, above = Folder.at(str(place)), cache_folder() / "runs"
    text = folder.read_text(RUN_FILE)
    if text is None:
        return _cached(folder, above)
    state = parse_state(text, folder.named(RUN_FILE))
    if state.best is None:
        raise InputError(f"The run {folder} has no checkpoint yet.")
    # As in the run's own folder, whose record says how the checkpoint became the best one.
    run = above / digest_of([str(folder), text])
    _cached(folder.below(CHECKPOINTS).below(_checked(state.best, folder)), run / CHECKPOINTS, state.best)
    write_state(run, state)
    return run / CHECKPOINTS / state.best


def _cached(folder: Folder, above: Path, name: str | None = None) -> Path:
    """Return the copy of a remote checkpoint in the folder ``above``, named ``name`` or by its identity."""
    mark = folder.read_text(CHECKPOINT_FILE)
    if mark is None:
        raise InputError(f"{folder} is neither a run nor a checkpoint: it has no {RUN_FILE} and no {CHECKPOINT_FILE}.")
    target = above / (name or digest_of([str(folder), mark]))
    with waiting_lock(make_folder(above) / f".{target.name}.lock"):
        _fetch_files(folder, target)
    return target


def _state_at(place: Folder) -> RunState | None:
    text = place.read_text(RUN_FILE)
    return None if text is None else parse_state(text, place.named(RUN_FILE))


def _checked(name: str, run: Folder) -> str:
    if not CHECKPOINT_NAME.fullmatch(name):
        raise InputError(f"{run.named(RUN_FILE)} names the checkpoint {name!r}, which is not a checkpoint's name.")
    return name


def _fetch_files(place: Folder, target: Path) -> None:
    """Copy a checkpoint's folder completely or not at all, unless it exists already."""
    if (target / CHECKPOINT_FILE).is_file():
        return
    files = place.tree()
    if CHECKPOINT_FILE not in files:
        raise InputError(f"The checkpoint {place} is missing or not whole.")
    with atomic_directory(target, marker=CHECKPOINT_FILE) as folder:
        for name, size in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            place.fetch(name, path)
            if path.stat().st_size != size:
                raise InputError(f"{place.named(name)} changed while it was copied; try again.")

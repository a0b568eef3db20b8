"""When checkpoints are made and which are kept. A thread writes a copy of the state while the next steps run."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from types import TracebackType
from typing import Self

from gare.common.console import warn
from gare.common.errors import GareError, InputError
from gare.config import Config
from gare.model.gare import GareModel
from gare.objective.ranks import Ranks
from gare.runs.run import RunState, run_directory, write_state
from gare.runs.state import Parts, Snapshot, checkpoint_name, sweep, write_checkpoint
from gare.runs.storage import RunStorage


class Checkpoints:
    """The run's checkpoints, made by rank 0; on other ranks every call does nothing.

    ``run.json`` names a checkpoint only after all of it is on disk, and others are removed only after that. At most
    one is being written: the next one waits for it. An error of writing is raised at the next step. ``whole``: the
    checkpoint the run goes on from.
    """

    def __init__(self, config: Config, ranks: Ranks, parts: Parts, whole: str | None) -> None:
        self._config, self._parts, self._active = config, parts, ranks.rank == 0
        self._folder, self._storage = run_directory(config), RunStorage(config)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._whole = whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written."""
        try:
            self._settle()
        except GareError as late:
            if error is None or error is late:
                raise
            warn(str(late))  # what ended the run comes first
        finally:
            self._writer.shutdown()

    def after_step(self, state: RunState, seconds: float, per_epoch: int) -> None:
        """Make a checkpoint when it is its turn (``runtime.checkpoint_every_steps``); an epoch's end has its own.

        ``seconds``: the run has taken; ``per_epoch``: batches in an epoch. Raises the error of an earlier write.
        """
        if self._writing is not None and self._writing.done():
            self._settle()
        every = self._config.runtime.checkpoint_every_steps
        if every is not None and state.step % every == 0 and state.batch < per_epoch:
            self._save(state, seconds, {})

    def after_epoch(self, state: RunState, seconds: float, metrics: dict[str, float]) -> None:
        """Make the checkpoint of an epoch's end; ``metrics`` on dev, none where no dev split is held out."""
        state.finished = state.epoch == state.epochs(self._config)
        rank(state, checkpoint_name(state), metrics, self._config)
        self._save(state, seconds, metrics)

    def _save(self, state: RunState, seconds: float, metrics: dict[str, float]) -> None:
        state.last, state.seconds = checkpoint_name(state), seconds
        if self._active:
            self._settle()
            job = (self._parts.model, deepcopy(state), Snapshot.of(self._parts), metrics)
            self._writing = self._writer.submit(self._write, *job)

    def _settle(self) -> None:
        """Wait for the write in flight, if there is one, and raise its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, model: GareModel, state: RunState, snapshot: Snapshot, metrics: dict[str, float]) -> None:
        try:
            write_checkpoint(self._folder, model, self._config, state, snapshot, metrics)
            write_state(self._folder, state)
        except GareError as error:
            whole = f"The checkpoint before it ({self._whole}) is whole" if self._whole else "There is none before it"
            raise type(error)(f"{error} {whole}; when there is room, the same command goes on.") from error
        self._whole = state.last
        self._copy(state)
        sweep(self._folder, state)

    def _copy(self, state: RunState) -> None:
        """Bring the copy on storage up to date; storage that cannot be reached has until the run's end to come back."""
        try:
            self._storage.push(state)
        except InputError as error:
            if state.finished:
                raise InputError(f"{error} The run is whole in {self._folder}; the same command copies it.") from error
            warn(f"{error} Training goes on; the next checkpoint is copied with what is missing.")


def rank(state: RunState, name: str, metrics: dict[str, float], config: Config) -> None:
    """Enter the checkpoint of an epoch's end among the best ones (``train.select_by``, ``runtime.keep_best``).

    Of equal ones the first is the better. Without metrics the newest is the best.
    """
    if not metrics:
        state.best, state.best_metrics = name, {}
        return
    key = f"dev/{config.train.select_by}"
    if state.best is not None:  # a record that knows the best one only
        state.kept.setdefault(state.best, state.best_metrics[key])
    order = sorted((state.kept | {name: metrics[key]}).items(), key=lambda entry: -entry[1])
    state.kept = dict(order[: config.runtime.keep_best])
    if order[0][0] == name:
        state.best, state.best_metrics = name, metrics

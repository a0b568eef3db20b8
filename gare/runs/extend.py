"""A finished run trained further (``gare train --extend``)."""

from __future__ import annotations

from gare.common.errors import ConfigError
from gare.common.files import only_one
from gare.config import Config
from gare.runs.opening import refuse_other
from gare.runs.run import absolute, progress, read_state, run_directory, write_state
from gare.runs.storage import RunStorage


def extend_run(config: Config, dataset_digest: str, epochs: int) -> str:
    """Have the next start of a finished run train ``epochs`` more, and say so; nothing is trained here.

    They are a stage of their own, over which the learning rate rises and falls once more, from the optimiser's state
    at the end of the last one. A run whose last extension is of as many epochs and was interrupted stays as it is.
    Raises ConfigError where there is no finished run of these settings and shards.
    """
    config = absolute(config)
    folder, storage = run_directory(config), RunStorage(config)
    with only_one(folder), storage.held():
        storage.pull()
        state = read_state(folder)
        if state is None or state.last is None:
            raise ConfigError(f"There is no finished run in {folder} to extend; train it without --extend first.")
        refuse_other(config, folder, state, dataset_digest, extend=True)
        if not state.finished:
            if state.extended[-1:] == [epochs]:
                return f"The run {folder} is already extended by {epochs} epochs, and goes on."
            raise ConfigError(
                f"The run {folder} is not finished, at {progress(state.epoch, state.step)} of "
                f"{state.epochs(config)} epochs; the same command without --extend goes on with it."
            )
        state.extended.append(epochs)
        state.finished = False
        write_state(folder, state)
        storage.push(state)
        return (
            f"The run {folder} is extended from {state.epoch} to {state.epochs(config)} epochs; over the added ones "
            "the learning rate rises and falls once more."
        )

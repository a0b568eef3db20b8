"""Training on Ray Train workers: the only file of gare/training that knows Ray. Ray is initialised by the caller."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from gare.common.console import warn
from gare.common.errors import GareError, RunError
from gare.common.files import write_json
from gare.common.storage import Folder
from gare.config import Config
from gare.config.tree import build, with_overrides
from gare.objective.ranks import ALONE, TorchRanks
from gare.tracking import RunHandle, log_report
from gare.training.inputs import open_shards
from gare.training.loop import train
from gare.training.placement import Nodes, uses_gpu, workers_that_fit
from gare.training.progress import follow, training_view
from gare.training.run import HISTORY_FILE, RunSummary, absolute, open_run, read_state, resumed, run_directory, summary
from gare.training.storage import RunStorage

FAILURE_FILE = "failure.json"
RAY_FOLDER = ".ray"
NODE_LOSS_SECONDS = 25.0
NO_RETRY = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)


class TrackingCallback(UserCallback):  # type: ignore[misc]
    """Sends every report to MLflow from the controller, so that workers need no route to the tracker."""

    def __init__(self, handle: RunHandle) -> None:
        self._handle = handle

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Log rank 0's report."""
        del run_context, checkpoint
        log_report(self._handle, metrics[0])


def fit(
    config: Config, *, tracking: RunHandle | None = None, callbacks: Sequence[Any] = (), quiet: bool = False
) -> RunSummary:
    """Train with ``runtime.workers`` Ray Train workers and return what the run came to.

    Raises the GareError a worker met, or RunError when the workers failed too often.
    """
    config = absolute(config)
    folder = run_directory(config)
    storage = RunStorage(config)
    storage.pull()
    state = open_run(config, open_shards(config).digest)
    if state.finished:
        return summary(config, state, already=True)
    went_on = resumed(state)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    callbacks = [*([TrackingCallback(tracking)] if tracking else []), *callbacks]
    with training_view(config, quiet=quiet) as on_row, follow(folder / HISTORY_FILE, on_row), _own_signals():
        _launch_until_done(config, folder, callbacks)
    storage.pull()
    finished = read_state(folder)
    if finished is None or not finished.finished:
        raise RunError(f"Training ended early; its folder is {folder}. The same command goes on.")
    return summary(config, finished, resumed=went_on)


def _launch_until_done(config: Config, folder: Path, callbacks: Sequence[Any]) -> None:
    """Launch workers, and again after a failure that another try may mend.

    A fixed count is Ray Train's to start again: it waits until that many fit. Of a range, each launch takes what fits
    then. (Ray's own elastic range knows nothing of a batch that must be shared evenly.)
    """
    elastic = not isinstance(config.runtime.workers, int)
    retries = config.runtime.max_failures
    nodes = cluster_nodes()
    for left in range(retries if elastic else 0, -1, -1):
        workers = workers_that_fit(config, nodes, "This run")
        trainer = _trainer(config, workers, nodes, FailureConfig(retries) if not elastic else NO_RETRY, callbacks)
        try:
            trainer.fit()
        except Exception as error:
            _raise_failure(folder / FAILURE_FILE)
            failure = f"Training stopped: {_root(error)} (run folder {folder})."
            if not left:
                raise RunError(failure) from error
            warn(f"{failure} It starts again with as many workers as fit then, at most {left} times more.")
            nodes = _after_loss(nodes)
        else:
            break
    _raise_failure(folder / FAILURE_FILE)


def _after_loss(before: Nodes) -> list[dict[str, float]]:
    """The nodes after a failure: Ray knows of a lost one only after it has missed some signs of life."""
    deadline = time.monotonic() + NODE_LOSS_SECONDS
    while len(cluster_nodes()) >= len(before) and time.monotonic() < deadline:
        time.sleep(0.5)
    return cluster_nodes()


def _trainer(
    config: Config, workers: int, nodes: Nodes, failures: FailureConfig, callbacks: Sequence[Any]
) -> TorchTrainer:
    use_gpu = uses_gpu(config.runtime, nodes)
    resources = {"CPU": config.runtime.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})
    # Ray hides no GPU from a worker that has none, so auto must be decided here, once for all.
    decided = with_overrides(config, {"runtime.device": "cuda" if use_gpu else "cpu", "runtime.workers": workers})
    return TorchTrainer(
        _worker,
        train_loop_config={"config": decided.model_dump(mode="json")},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        # Both: tensors stay on their device, and what ranks say to each other in words goes over gloo.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        run_config=RunConfig(
            # A name of its own per launch: resuming is the run folder's business, never Ray's by name.
            name=f"launch-{time.time_ns()}",
            storage_path=_ray_folder(config),
            failure_config=failures,
            callbacks=list(callbacks),
        ),
    )


def _ray_folder(config: Config) -> str:
    """Where Ray Train keeps its own records, which all nodes must see."""
    if config.runtime.storage is None:
        return str(run_directory(config) / RAY_FOLDER)
    return Folder.at(config.runtime.storage).below(config.run_name()).below(RAY_FOLDER).address


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put this process's signal handlers back: Ray Train's stay and end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(settings: dict[str, Any]) -> None:
    config = build(settings["config"])
    failure = run_directory(config) / FAILURE_FILE
    if failure.is_file():
        return  # An earlier attempt met an error that trying again cannot mend; the driver raises it.
    ranks = TorchRanks() if ray.train.get_context().get_world_size() > 1 else ALONE
    try:
        train(config, ranks, ray.train.report)
    except GareError as error:
        write_json(failure, {"message": str(error), "exit_code": error.exit_code})
        raise


def cluster_nodes() -> list[dict[str, float]]:
    """The resources of every node that is up."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _raise_failure(path: Path) -> None:
    if not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    error = RunError(values["message"])
    error.exit_code = values["exit_code"]
    raise error


def _root(error: BaseException) -> str:
    """The first line of the first worker's own error."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    text = (str(error).strip() or type(error).__name__).splitlines()
    return text[-1] if failures else text[0]

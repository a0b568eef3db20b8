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

from gare.common.errors import GareError, RunError
from gare.common.files import write_json
from gare.config import Config
from gare.config.tree import build
from gare.objective.ranks import ALONE, TorchRanks
from gare.tracking import RunHandle, log_report
from gare.training.inputs import open_shards
from gare.training.loop import train
from gare.training.progress import follow, training_view
from gare.training.run import HISTORY_FILE, RunSummary, absolute, open_run, read_state, run_directory, summary

FAILURE_FILE = "failure.json"
RAY_FOLDER = ".ray"


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
    state = open_run(config, open_shards(config).digest)
    if state.finished:
        return summary(config, state, already=True)
    resumed_from = state.epoch or None
    failure = folder / FAILURE_FILE
    failure.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json")},
        scaling_config=_scaling(config),
        # Both: tensors stay on their device, and what ranks say to each other in words goes over gloo.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if _use_gpu(config) else "gloo"),
        run_config=RunConfig(
            # A name of its own per launch: resuming is the run folder's business, never Ray's by name.
            name=f"launch-{time.time_ns()}",
            storage_path=str(folder / RAY_FOLDER),
            failure_config=FailureConfig(max_failures=config.runtime.max_failures),
            callbacks=[*([TrackingCallback(tracking)] if tracking else []), *callbacks],
        ),
    )
    with training_view(config.run_name(), quiet=quiet) as on_row, follow(folder / HISTORY_FILE, on_row), _own_signals():
        try:
            trainer.fit()
        except Exception as error:
            _raise_failure(failure)
            raise RunError(f"Training stopped: {_root(error)} (run folder {folder}).") from error
    _raise_failure(failure)
    finished = read_state(folder)
    if finished is None or not finished.finished:
        raise RunError(f"Training ended early; its folder is {folder}. The same command goes on.")
    return summary(config, finished, resumed_from=resumed_from)


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


def _scaling(config: Config) -> ScalingConfig:
    need = config.runtime.workers * config.runtime.cpus_per_worker
    have = ray.cluster_resources().get("CPU", 0)
    if need > have:
        raise RunError(
            f"{config.runtime.workers} workers of {config.runtime.cpus_per_worker:g} CPUs need {need:g} CPUs, but the "
            f"cluster has {have:g}; lower runtime.workers or runtime.cpus_per_worker."
        )
    resources = {"CPU": config.runtime.cpus_per_worker} | ({"GPU": 1.0} if _use_gpu(config) else {})
    return ScalingConfig(num_workers=config.runtime.workers, use_gpu=_use_gpu(config), resources_per_worker=resources)


def _use_gpu(config: Config) -> bool:
    gpus = float(ray.cluster_resources().get("GPU", 0))
    return config.runtime.device == "cuda" or (config.runtime.device == "auto" and gpus >= config.runtime.workers)


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

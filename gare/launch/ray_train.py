"""Train on Ray Train workers; the caller initialises Ray."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
from ray.exceptions import RayTaskError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from gare.common.console import note, warn
from gare.common.errors import GareError, RunError
from gare.common.files import write_json
from gare.common.locks import exclusive_lock
from gare.common.nodes import Nodes
from gare.common.ray_cluster import cluster_nodes, warn_on_lost_nodes
from gare.common.signals import keeping_signals
from gare.common.storage import read_file
from gare.config import Config, RuntimeConfig
from gare.config.tree import with_overrides
from gare.launch.placement import placement_tags, rank_resources, rank_selector, uses_gpu, workers_that_fit
from gare.launch.progress import follow, training_view
from gare.launch.ray_controller import CloseRanks, HereTrainer, capacity_message, nodes_for, say_if_spread
from gare.launch.ray_notice import Notice
from gare.launch.ray_ranks import RankGroup, ending_without_head, head_seconds
from gare.objective.world import SINGLE, TorchWorld
from gare.runs.layout import HISTORY_FILE
from gare.runs.run import Run
from gare.runs.state import RunSummary, read_state, resumed, summary
from gare.tracking import note_down, syncing
from gare.tracking.system import watching
from gare.training.loop import stay, train

FAILURE_FILE = "failure.json"
RAY_FOLDER = ".ray"
NODE_LOSS_SECONDS = 25.0
WRITER_SECONDS = 120.0
"""Time beyond that after which a rank without the head ends: an NFS server frees a lost machine's locks after 90 s."""
LEFT = "left"
"""What rank 0 returns if the ranks ended because one of their nodes is being taken away."""
GOES_ON = "Training continues from its last checkpoint"
NO_RETRY = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)


def fit(
    run: Run | Config,
    *,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
    stop: threading.Event | None = None,
    zone: str | None = None,
) -> RunSummary:
    """Train with ``runtime.workers`` Ray Train workers and return the run's summary.

    Only this process sends the run's rows to the tracker, from the run's files, so that workers need no connection to
    it. Raises the GareError that a worker met, or RunError if the workers failed too often.

    Args:
        run: An opened run, or settings, whose run is opened here.
        callbacks: Of Ray Train.
        quiet: Show no progress.
        stop: Run Ray Train's controller in this process, a Ray actor, and end with its StoppedError once this is set.
        zone: Value of ``runtime.close_by`` of the nodes to run on, if they have capacity.
    """
    run = Run.of(run, frames=False)
    config, folder, state = run.config, run.folder, run.hand_over()
    if state.finished:
        return summary(config, state, already=True)
    went_on = resumed(state)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    with (
        training_view(config.run_name(), state.epochs(config), quiet=quiet) as on_row,
        follow(folder / HISTORY_FILE, on_row),
        syncing(folder, wanted=config.runtime.tracking),
        keeping_signals(signal.SIGINT),
    ):
        _launch_until_done(run, callbacks, stop, zone)
        run.storage.pull()
    finished = read_state(folder)
    if finished is None or not finished.finished:
        raise RunError(f"Training ended early; its folder is {folder}. The same command continues.")
    return summary(config, finished, resumed=went_on)


def _launch_until_done(
    run: Run, callbacks: Sequence[Any], stop: threading.Event | None, zone: str | None = None
) -> None:
    """Launch workers, and launch them again after a failure that may not recur, or after they left a node in time.

    Ray Train restarts a fixed number of workers itself, after waiting until that many fit. With a range, each launch
    takes what fits then. (Ray's own elastic range ignores that the batch must be shared evenly.)
    """
    config, folder = run.config, run.folder
    elastic = not isinstance(config.runtime.workers, int)
    retries = config.runtime.max_failures
    left = retries if elastic else 0
    nodes = nodes_for(config.runtime)
    while True:
        workers = workers_that_fit(config, nodes, "This run")
        device = "cuda" if uses_gpu(config.runtime, nodes) else "cpu"
        note_down(folder, tags=placement_tags(workers, device))
        say_if_spread(config.runtime, nodes, workers)
        failures = NO_RETRY if elastic else FailureConfig(retries)
        trainer = _trainer(run, workers, nodes, failures, callbacks, stop, zone)
        runtime = config.runtime.model_copy(update={"device": device})
        lack = partial(capacity_message, runtime, workers=workers, then=GOES_ON)
        try:
            with warn_on_lost_nodes(lack) if stop is None else nullcontext():
                result = trainer.fit()
        except Exception as error:
            if stop is not None and stop.is_set():
                raise
            _raise_failure(folder / FAILURE_FILE)
            failure = f"Training stopped: {_root(error)} (run folder {folder})."
            if not left:
                raise RunError(failure) from error
            warn(f"{failure} It starts again with as many workers as fit then, at most {left} times more.")
            left -= 1
        else:
            if result.return_value != LEFT:
                break
            note("A node of this run is going away. Its ranks made a checkpoint and left; they start again elsewhere.")
        if elastic:
            nodes = _after_loss(nodes, config.runtime)
    _raise_failure(folder / FAILURE_FILE)


def _after_loss(before: Nodes, runtime: RuntimeConfig) -> Nodes:
    """Return the nodes after a failure: Ray notices a lost one only after it has missed some heartbeats."""
    deadline = time.monotonic() + NODE_LOSS_SECONDS
    while len(cluster_nodes()) >= len(before) and time.monotonic() < deadline:
        time.sleep(0.5)
    return nodes_for(runtime)


def _trainer(
    run: Run,
    workers: int,
    nodes: Nodes,
    failures: FailureConfig,
    callbacks: Sequence[Any],
    stop: threading.Event | None,
    zone: str | None,
) -> TorchTrainer:
    config = run.config
    use_gpu = uses_gpu(config.runtime, nodes)
    # Ray does not hide GPUs from a worker without one, so auto must be decided here, once for all.
    decided = with_overrides(config, {"runtime.device": "cuda" if use_gpu else "cpu", "runtime.workers": workers})
    kind = TorchTrainer if stop is None else partial(HereTrainer, stop=stop, folder=run.folder)
    return kind(
        _worker,
        # In a trial, Ray does not watch for nodes that go away.
        train_loop_config={"run": run.description(), "device": decided.runtime.device, "watched": stop is None},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker=rank_resources(config.runtime, use_gpu=use_gpu),
            label_selector=rank_selector(config.runtime) or None,
        ),
        # Both: tensors stay on their device, and texts between ranks are sent over gloo.
        torch_config=RankGroup(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        run_config=RunConfig(
            # A new name per launch: the run folder decides on resuming, never Ray by name.
            name=f"launch-{time.time_ns()}",
            storage_path=_ray_folder(run),
            failure_config=failures,
            callbacks=[*callbacks, CloseRanks(decided, zone)],
        ),
    )


def _ray_folder(run: Run) -> str:
    """Return the folder of Ray Train's own records, which all nodes must see."""
    place = run.storage.place
    return str(run.folder / RAY_FOLDER) if place is None else place.below(RAY_FOLDER).address


def _worker(settings: dict[str, Any]) -> str | None:
    run = Run.attach(settings["run"])
    failure = run.folder / FAILURE_FILE
    failed = failure.is_file()
    world = TorchWorld() if ray.train.get_context().get_world_size() > 1 else SINGLE
    notice = Notice() if settings["watched"] else None
    try:
        with ending_without_head():
            if run.copied and not failed:
                _ = run.shards  # copied to this node, or found there
            if run.copied and world.size > 1:
                ray.train.collective.barrier()  # torch's own collectives would time out after half an hour
            if failed:
                return None  # An earlier attempt met an error that a retry cannot fix; the driver raises it.
            with _alone(run.folder), _watched(run):
                train(run, world, ray.train.report, device=settings["device"], leave=notice or stay)
    except GareError as error:
        write_json(failure, {"message": str(error), "exit_code": error.exit_code})
        raise
    return LEFT if notice is not None and notice.came else None


def _watched(run: Run) -> AbstractContextManager[None]:
    """Sample the machine's load for the tracker, in one of the workers of each node."""
    context, runtime = ray.train.get_context(), run.config.runtime
    wanted = runtime.system_metrics if runtime.tracking and context.get_local_rank() == 0 else None
    return watching(run.folder, context.get_node_rank(), wanted)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder on the rank that writes to it, as long as its process lives.

    Workers whose driver or cluster was killed continue for a moment, those of a disconnected node for longer: their
    replacements wait until they are gone.
    """
    if ray.train.get_context().get_world_rank() > 0:
        yield
        return
    deadline = time.monotonic() + head_seconds() + WRITER_SECONDS
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive_lock(folder / RAY_FOLDER))
                break
            except RunError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def _raise_failure(path: Path) -> None:
    text = read_file(path)
    if text is None:
        return
    values = json.loads(text)
    error = RunError(values["message"])
    error.exit_code = values["exit_code"]
    raise error


def _root(error: BaseException) -> str:
    """Return a line of the error that the first worker, or Ray Train's controller, met."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    elif isinstance(error, ControllerError):
        error = error.controller_failure
    text = (str(error).strip() or type(error).__name__).splitlines()
    return text[-1] if failures or isinstance(error, RayTaskError) else text[0]

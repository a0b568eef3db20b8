"""Connect to Ray: an existing session, else the cluster of RAY_ADDRESS, else one started on this machine."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gare.common.errors import RunError
from gare.common.redact import first_line, redact
from gare.common.signals import keeping_signals
from gare.common.token import make_token, protect_token, told_token, use_token, wrong_token
from gare.config import RuntimeConfig
from gare.jobs.places import Place
from gare.jobs.shared import check_shared

OBJECT_STORE_BYTES = 512 * 2**20


@contextmanager
def ray_session(runtime: RuntimeConfig, *, places: Iterable[Place] = ()) -> Iterator[None]:
    """Initialise Ray for the block and shut it down after it; a session that you have initialised is used and stays.

    Args:
        runtime: a cluster started on this machine offers at least the CPUs that these settings' workers ask for.
        places: paths that every node of a cluster named by RAY_ADDRESS has to see.

    Raises RunError if Ray cannot be joined or started, and InputError if a node does not see a place.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        use_token()
    import ray

    if ray.is_initialized():
        yield
        return
    with keeping_signals(signal.SIGTERM):
        if address:
            _join(address)
        else:
            _start(runtime)
    protect_token()
    try:
        if address:
            check_shared(places)
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    from gare.common.ray_cluster import silence

    why = silence(address)
    if why is not None:
        raise RunError(
            f"No Ray cluster can be joined at RAY_ADDRESS={redact(address)}: {why}. Start its head, or correct "
            "RAY_ADDRESS; without it commands start Ray on this machine."
        )
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
    except ray.exceptions.AuthenticationError:
        raise RunError(wrong_token(f"The cluster at {address}")) from None
    except (OSError, RuntimeError, ValueError) as error:
        why = first_line(error)
        raise RunError(
            f"Cannot reach Ray: {why}. Its head may be down, or want another token; {told_token()}."
        ) from None


def _start(runtime: RuntimeConfig) -> None:
    import ray

    from gare.common.ray_cluster import loopback

    make_token()
    try:
        with loopback():
            ray.init(
                address="local",
                num_cpus=local_cpus(runtime),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except Exception as error:  # Ray raises a bare Exception if it starts too slowly
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if "AF_UNIX" in first:
            first = "the path of its temporary folder is too long; set RAY_TMPDIR to a short one, such as /tmp"
        elif isinstance(error, OSError):
            first = f"{first}; it needs a temporary folder that you may write, named by RAY_TMPDIR or TMPDIR"
        elif "timed out during startup" in first:
            first = "it was not ready within 30 s. The machine may be too busy; run the command again"
        elif not isinstance(error, RuntimeError | ValueError | ray.exceptions.RayError):
            raise
        raise RunError(f"Cannot start Ray: {first}.") from None


def local_cpus(runtime: RuntimeConfig) -> int:
    """Count the CPUs that a cluster started on this machine offers."""
    return max(os.cpu_count() or 1, math.ceil(runtime.fewest_workers * runtime.cpus_per_worker))

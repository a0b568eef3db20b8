"""One way to reach Ray: the cluster named by RAY_ADDRESS, else one started on this machine for the command."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gare.common.errors import RunError
from gare.common.token import make_token, protect_token, told_token, use_token, wrong_token
from gare.config import RuntimeConfig
from gare.jobs.places import Place
from gare.jobs.shared import check_shared

OBJECT_STORE_BYTES = 512 * 2**20


@contextmanager
def ray_session(runtime: RuntimeConfig, *, places: Iterable[Place] = ()) -> Iterator[None]:
    """Initialise Ray for the block, unless it is already there.

    A local cluster offers at least the CPUs that the settings' workers ask for. ``places``: paths that every node of a
    cluster that was there has to see; InputError where one does not.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    if os.environ.get("RAY_ADDRESS"):
        use_token()
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level="ERROR")
        else:
            make_token()
            ray.init(
                address="local",
                num_cpus=local_cpus(runtime),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except ray.exceptions.AuthenticationError:
        raise RunError(wrong_token(f"The cluster at {os.environ.get('RAY_ADDRESS', 'this machine')}")) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        if os.environ.get("RAY_ADDRESS"):
            why = f"{why.rstrip('.')}. Its head may be down, or want another token; {told_token()}."
        raise RunError(f"Cannot start or reach Ray: {why}") from None
    protect_token()
    try:
        if os.environ.get("RAY_ADDRESS"):
            check_shared(places)
        yield
    finally:
        ray.shutdown()


def local_cpus(runtime: RuntimeConfig) -> int:
    """How many CPUs a cluster started for a command offers."""
    return max(os.cpu_count() or 1, math.ceil(runtime.fewest_workers * runtime.cpus_per_worker))

"""One way to reach Ray: the cluster named by RAY_ADDRESS, else one started on this machine for the command."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gare.common.errors import RunError
from gare.config import RuntimeConfig

OBJECT_STORE_BYTES = 512 * 2**20


@contextmanager
def ray_session(runtime: RuntimeConfig, *, dashboard: bool = False) -> Iterator[None]:
    """Initialise Ray for the block, unless it is already there.

    A local cluster offers at least the CPUs that the settings' workers ask for. ``dashboard``: start it too
    (Ray frees the resources of stopped trials only with it).
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, math.ceil(runtime.fewest_workers * runtime.cpus_per_worker)),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"Cannot start or reach Ray: {str(error).splitlines()[0]}") from None
    _protect_token()
    try:
        yield
    finally:
        ray.shutdown()


def _protect_token() -> None:
    """Ray writes its authentication token readable by everyone on the machine."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_mode & 0o077:
        token.chmod(0o600)

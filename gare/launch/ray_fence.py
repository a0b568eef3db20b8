"""A node that is cut off from the cluster's head is taken for lost, and its work is started elsewhere: it has to end.

Ray itself ends the processes of such a node too, but only minutes later, when its own connections have timed out; until
then they hold the run's folder and may write there.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

ASK_SECONDS = 5.0
RECONNECT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
LOST_EXIT = 70


def head_seconds() -> float:
    """For how long Ray's nodes do without their head: 60 s, unless the cluster was started with another time."""
    try:
        return float(os.environ.get(RECONNECT_VARIABLE, ""))
    except ValueError:
        return 60.0


@contextmanager
def ending_without_head() -> Iterator[None]:
    """End this process at once, while the block runs, when the head has not been reached for ``head_seconds``."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    with ending_without((host.strip("[]"), int(port)), head_seconds()):
        yield


@contextmanager
def ending_without(address: tuple[str, int], seconds: float, every_s: float = ASK_SECONDS) -> Iterator[None]:
    """The same for any address that takes connections. A process whose threads wait for others ends too."""
    over = threading.Event()

    def watch() -> None:
        reached = time.monotonic()
        while not over.wait(every_s):
            if _answers(address, every_s):
                reached = time.monotonic()
            elif time.monotonic() - reached > seconds and not over.is_set():
                sys.stderr.write(f"The head of the cluster was not reached for {seconds:g} s: this process ends.\n")
                sys.stderr.flush()
                os._exit(LOST_EXIT)

    thread = threading.Thread(target=watch, name="gare-fence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _answers(address: tuple[str, int], seconds: float) -> bool:
    try:
        socket.create_connection(address, timeout=seconds).close()
    except OSError:
        return False
    return True

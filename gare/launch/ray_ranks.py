"""Connect the ranks of a run over the network of Ray's nodes, and end those that lose the cluster's head.

The cluster considers a node without connection to the head lost and restarts its work elsewhere, so the node's own
ranks have to end. Ray ends them too, but only minutes later, when its own connections have timed out; until then they
hold the run's folder and may write there.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psutil
import ray
import ray.util
import torch.distributed as dist
from ray.train.torch import TorchConfig

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"

_meeting: list[socket.socket] = []
"""Rank 0's open port, from when it is chosen until the ranks meet there."""


_IP = (socket.AF_INET, socket.AF_INET6)
ASK_SECONDS = 5.0
RECONNECT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
LOST_EXIT = 70


class RankGroup(TorchConfig):  # type: ignore[misc]
    """Ray Train's process group, restricted to the node's address in the cluster; none for a single rank.

    By default gloo uses the interface that the machine's own name leads to. On many machines that is the loopback
    (Debian writes 127.0.1.1 into /etc/hosts), where ranks of other machines never answer. Also, torch's store, which
    requires no token, would listen on every interface.
    """

    @property
    def backend_cls(self) -> Any:
        """Return Ray's own backend, except for how the group is made."""

        class Backend(super().backend_cls):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: RankGroup) -> None:
                size = len(worker_group)
                if size == 1:
                    return
                host, port = worker_group.execute_single(0, open_meeting)
                group = (host, port, size, backend_config.backend, backend_config.timeout_s)
                ray.get([worker_group.execute_single_async(rank, meet, *group, rank) for rank in range(size)])

        return Backend


def open_meeting() -> tuple[str, int]:
    """Open a port on the node's address, on rank 0, and return both; it stays open, so nobody else can take it."""
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    _meeting[:] = [socket.create_server((host, 0), family=family)]
    return host, _meeting[0].getsockname()[1]


def meet(host: str, port: int, size: int, backend: str, timeout_s: float, rank: int) -> None:
    """Join the process group of ``size`` ranks that meet at rank 0's port."""
    use_nodes_interface()
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as in Ray: a lost rank ends the others
    opened = _meeting.pop().detach() if rank == 0 else None
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(host, port, size, rank == 0, timeout=timeout, master_listen_fd=opened)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def use_nodes_interface() -> None:
    """Make gloo in this process use the node's interface, unless the environment names one."""
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(INTERFACE_VARIABLE, name)


def interface_of(address: str) -> str | None:
    """Return the network interface of this machine that has an IP address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in addresses if one.family in _IP):
            return str(name)
    return None


def head_seconds() -> float:
    """Return how long Ray's nodes continue without their head: 60 s, unless the cluster was started with another."""
    try:
        return float(os.environ.get(RECONNECT_VARIABLE, ""))
    except ValueError:
        return 60.0


@contextmanager
def ending_without_head() -> Iterator[None]:
    """End this process at once if, while the block runs, the head is unreachable for ``head_seconds``."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    with ending_without((host.strip("[]"), int(port)), head_seconds()):
        yield


@contextmanager
def ending_without(address: tuple[str, int], seconds: float, every_s: float = ASK_SECONDS) -> Iterator[None]:
    """Do the same for any address that accepts connections, even while threads of this process wait for others."""
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

"""How the ranks of a run find each other: over the network by which Ray's nodes do."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import ray
import ray.util
import torch.distributed as dist
from ray.train.torch import TorchConfig

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"

_meeting: list[socket.socket] = []
"""Rank 0's open port, from when it was chosen to when the ranks meet there."""


class RankGroup(TorchConfig):  # type: ignore[misc]
    """Ray Train's process group, on the node's address in the cluster alone; none for a single rank.

    By itself gloo takes the interface that the machine's own name leads to. On many machines that is the loopback
    (Debian writes 127.0.1.1 into /etc/hosts), where ranks of other machines never answer. And torch's store, which
    asks for no token, would listen on every interface.
    """

    @property
    def backend_cls(self) -> Any:
        """Ray's own backend, except for how the group is made."""

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
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as Ray does: a lost rank ends the others
    opened = _meeting.pop().detach() if rank == 0 else None
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(host, port, size, rank == 0, timeout=timeout, master_listen_fd=opened)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def use_nodes_interface() -> None:
    """Let gloo in this process use the node's interface, unless the environment names one."""
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(INTERFACE_VARIABLE, name)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IP address; None where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in addresses if one.family in _IP):
            return str(name)
    return None


_IP = (socket.AF_INET, socket.AF_INET6)

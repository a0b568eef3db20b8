"""How the ranks of a run find each other: over the network by which Ray's nodes do."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"


class RankGroup(TorchConfig):  # type: ignore[misc]
    """Ray Train's process group, whose gloo uses the interface that has the node's address in the cluster.

    By itself gloo takes the one that the machine's own name leads to. On many machines that is the loopback (Debian
    writes 127.0.1.1 into /etc/hosts), where ranks of other machines never answer.
    """

    @property
    def backend_cls(self) -> Any:
        """Ray's own backend, after every rank has chosen its interface."""

        class Backend(super().backend_cls):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(use_nodes_interface)
                super().on_start(worker_group, backend_config)

        return Backend


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

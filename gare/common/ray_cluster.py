"""The Ray cluster this process is connected to: its nodes, what is free, and what its autoscaler may add.

The one place that asks Ray's insides about nodes; they are those of the version that ``constraints.txt`` pins.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private import ray_constants, state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from gare.common.console import note, warn
from gare.common.nodes import Node, Nodes, Selector

ANSWER_SECONDS = 30.0
"""The autoscaler looks every 5 s, and on large clusters takes as long again."""

HEAD_SECONDS = 8.0
"""How long a head may take to answer before a command joins its cluster: Ray itself tries for minutes."""

CURRENT_CLUSTER = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
"""Where Ray notes the last cluster it started here, and leaves it when that has died."""

ASK_SECONDS = 0.5
TELL_SECONDS = 5.0


def silence(address: str) -> str | None:
    """Say why no Ray cluster can be joined at ``address``, within HEAD_SECONDS; None where one answers.

    A head that refuses the token answers. With TLS, and for an address without a port, only Ray itself can tell: None.
    """
    if address == "auto":
        with suppress(OSError, UnicodeDecodeError):
            address = CURRENT_CLUSTER.read_text(encoding="utf-8").strip()
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("", "ray"):
        return "it is not the address of a head, which has the form host:6379"
    if not host or not port.isdigit() or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return None
    until = time.monotonic() + HEAD_SECONDS
    refusal = _refusal(host.strip("[]"), int(port))
    if refusal is not None:
        return f"nothing answers ({refusal})"
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:  # as Ray itself does
        try:
            grpc.channel_ready_future(channel).result(until - time.monotonic())
            if scheme != "ray":
                left = max(1.0, until - time.monotonic())
                NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=left)
        except grpc.FutureTimeoutError:
            return f"something listens, and does not answer as Ray does within {HEAD_SECONDS:.0f} s"
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                return f"what answers there is no head ({error.code().name})"
    return None


def _refusal(host: str, port: int) -> str | None:
    """Say why no connection is made within HEAD_SECONDS / 2, the search for a name's addresses included."""
    answer: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=HEAD_SECONDS / 2).close()
            answer.append(None)
        except (OSError, OverflowError, UnicodeError) as error:
            answer.append(str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(HEAD_SECONDS / 2)
    return answer[0] if answer else f"neither a connection nor an error within {HEAD_SECONDS / 2:.0f} s"


@contextmanager
def loopback() -> Iterator[None]:
    """Make a Ray that is started in the block listen on localhost alone, as Ray itself does on macOS and Windows.

    An address given to ``ray.init`` would not do: Ray puts the machine's own in the place of 127.0.0.1.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def cluster_nodes() -> list[Node]:
    """Every node that is up."""
    return [
        Node(dict(node["Resources"]), dict(node["Labels"] or {}), node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def free_nodes() -> list[Node]:
    """Every node that is up, with the resources that nobody has taken; as of a moment ago."""
    free = state.available_resources_per_node()
    return [Node(free.get(node.id, {}), node.labels, node.id) for node in cluster_nodes()]


@contextmanager
def warn_on_lost_nodes(lack: Callable[[Nodes], str | None], every_s: float = TELL_SECONDS) -> Iterator[None]:
    """Say it, while the block runs, when nodes are lost so that there is a ``lack``, and when there is none any more.

    Ray waits for room without a word. What is lacking from the beginning is not told.
    """
    over = threading.Event()

    def watch() -> None:
        told: str | None = ""
        while not over.wait(every_s):
            with suppress(Exception):  # the head may be away, or the cluster going
                now = lack(cluster_nodes())
                if now is not None and told is None:
                    warn(now)
                elif now is None and told:
                    note("There is room again.")
                told = now if now is None or told is None else told

    threading.Thread(target=watch, name="gare-nodes", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def requested(bundles: Sequence[dict[str, float]], selector: Selector) -> Iterator[Callable[[], None]]:
    """Ask the autoscaler for nodes that hold the bundles, as long as the block runs.

    Gives what asks once more: Ray keeps one request for the whole cluster, and another command's takes its place.
    """
    selectors: list[dict[str, str]] = [dict(selector)] * len(bundles)

    def ask() -> None:
        request_resources(bundles=list(bundles), bundle_label_selectors=selectors)

    ask()
    try:
        yield ask
    finally:
        with suppress(Exception):  # the cluster may be gone, and the request with it
            request_resources(bundles=[])


def may_come(bundle: dict[str, float], selector: Selector) -> bool:
    """Return whether the autoscaler could hold the bundle, with nodes that it adds or that are up.

    False where none answers in time, and where it is Ray's first autoscaler, which knows no labels: that of a cluster
    which a command starts for itself, and adds nothing.
    """
    if not is_autoscaler_v2(fetch_from_server=True):
        return False
    with requested([bundle], selector) as ask_again:
        since = _status().cluster_resource_state.cluster_resource_state_version
        until = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < until:
            found = _status().autoscaling_state
            if found.last_seen_cluster_resource_state_version > since:
                return not found.infeasible_cluster_resource_constraints
            time.sleep(ASK_SECONDS)
            ask_again()
    return False


def _status() -> Any:
    """The autoscaler's last answer, and what to look at next."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv_get_gcs_client().get_cluster_status(timeout_s=ANSWER_SECONDS))
    return reply

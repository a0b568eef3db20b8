"""Query the connected Ray cluster: its nodes, what is free, and what its autoscaler may add.

Only this module uses Ray's internals about nodes, in the version that ``constraints.txt`` pins.
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
"""The autoscaler checks every 5 s, and takes as long again on large clusters."""

HEAD_SECONDS = 8.0
"""The longest wait for a head before a command joins its cluster; Ray itself tries for minutes."""

CURRENT_CLUSTER = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
"""The file where Ray notes the last cluster started here, even after that has died."""

ASK_SECONDS = 0.5
TELL_SECONDS = 5.0


def silence(address: str) -> str | None:
    """Return why no Ray cluster can be joined at ``address``, within HEAD_SECONDS; None if one answers.

    A head that refuses the token counts as an answer. With TLS, or for an address without a port, only Ray itself can
    find out: None.
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
                return f"what answers there is not a head ({error.code().name})"
    return None


def _refusal(host: str, port: int) -> str | None:
    """Return why no connection is made within HEAD_SECONDS / 2, including the lookup of the name; None if one is."""
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
    """Make a Ray started in the block listen on localhost alone, as Ray itself does on macOS and Windows.

    Passing 127.0.0.1 to ``ray.init`` would not work: Ray replaces it by the machine's own address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def cluster_nodes() -> list[Node]:
    """Return every living node."""
    return [
        Node(dict(node["Resources"]), dict(node["Labels"] or {}), node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def free_nodes() -> list[Node]:
    """Return every living node with its free resources, as of a moment ago."""
    free = state.available_resources_per_node()
    return [Node(free.get(node.id, {}), node.labels, node.id) for node in cluster_nodes()]


@contextmanager
def warn_on_lost_nodes(lack: Callable[[Nodes], str | None], every_s: float = TELL_SECONDS) -> Iterator[None]:
    """Warn, while the block runs, when lost nodes cause a ``lack``, and note when it has ended.

    Ray waits for capacity silently. A lack that exists from the beginning is not reported.
    """
    over = threading.Event()

    def watch() -> None:
        told: str | None = ""
        while not over.wait(every_s):
            with suppress(Exception):  # the head may be unreachable, or the cluster shutting down
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

    Yields a function that repeats the request: Ray keeps one request for the whole cluster, and another command's
    request replaces it.
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
    """Return whether the autoscaler could hold the bundle, on present nodes or on ones that it adds.

    False if it does not answer in time, or is Ray's first autoscaler, which knows no labels: clusters that a command
    starts for itself have it, and it adds nothing there.
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
    """Return the autoscaler's last answer, and the version of the state that it has seen."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv_get_gcs_client().get_cluster_status(timeout_s=ANSWER_SECONDS))
    return reply

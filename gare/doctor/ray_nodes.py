"""Check every node of a cluster, by an actor on each that takes no CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from queue import Empty, Queue
from threading import Thread
from typing import Any

from gare.common.errors import GareError, RunError
from gare.common.storage import Folder
from gare.doctor.every import Wanted, look
from gare.doctor.finding import Finding, fail, ok
from gare.doctor.machine import check_clock
from gare.doctor.places import probe

ANSWER_SECONDS = 60.0
LIMIT_SECONDS = 150.0
CLOCK_TRIES = 5
Found = list[tuple[str, Finding]]
"""Findings, each with its node."""


def look_everywhere(wanted: Wanted, here: str) -> Found:
    """Return the findings of every node, or one that says why the cluster cannot be reached."""
    from gare.common.ray_cluster import silence
    from gare.common.token import use_token

    use_token()
    address = os.environ.get("RAY_ADDRESS", "auto")
    silent = silence(address)
    if silent is not None:
        says = f"no Ray cluster at {address}: {silent}"
        return [(here, fail("cluster", says, "correct RAY_ADDRESS, start the head, or let this machine reach it"))]
    fix = "start the head if it is down; use its token (RAY_AUTH_TOKEN, ~/.ray/auth_token), its Python and its Ray here"
    try:
        found = _in_time(lambda: _ask_cluster(address, wanted))
    except Exception as error:  # noqa: BLE001 - finding faults is the purpose
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        says = first if isinstance(error, GareError) else f"{type(error).__name__}: {first}"
        return [(here, fail("cluster", says, fix))]
    nodes = len({node for node, _ in found})
    return [(here, ok("cluster", f"{nodes} nodes asked")), *found]


def _in_time(work: Callable[[], Found]) -> Found:
    """Return the work's findings. Raises RunError if it is slow: Ray may wait for minutes and ignore signals."""
    done: Queue[Found | Exception] = Queue()

    def run() -> None:
        try:
            done.put(work())
        except Exception as error:  # noqa: BLE001 - raised below, in the waiting thread
            done.put(error)

    Thread(target=run, daemon=True).start()
    try:
        found = done.get(timeout=LIMIT_SECONDS)
    except Empty:
        raise RunError(f"Ray has not answered for {LIMIT_SECONDS:.0f} s.") from None
    if isinstance(found, Exception):
        raise found
    return found


def _ask_cluster(address: str, wanted: Wanted) -> Found:
    with _connected(address):
        return _ask_nodes(wanted)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    from gare.config import RuntimeConfig
    from gare.launch.ray_session import ray_session

    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address  # never a new cluster, which would prove nothing
    try:
        with ray_session(RuntimeConfig()):
            yield
    finally:
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)


def _ask_nodes(wanted: Wanted) -> Found:
    """Ask every living node for its findings at once, with a probe file of this machine in output meanwhile."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    examiners = {node["NodeID"]: _examiner(node["NodeID"]) for node in nodes}
    found: Found = []
    with ExitStack() as stack:
        seen = _put(wanted.output, stack)
        asked = {
            node["NodeID"]: examiners[node["NodeID"]].look.remote(
                replace(
                    wanted, running=True, seen=seen, object_store=int(node["Resources"].get("object_store_memory", 0))
                )
            )
            for node in nodes
        }
        until = time.monotonic() + ANSWER_SECONDS
        for node in nodes:
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
            try:
                left = max(1.0, until - time.monotonic())
                found += [(name, finding) for finding in ray.get(asked[node["NodeID"]], timeout=left)]
                found.append((name, _clock(examiners[node["NodeID"]])))
            except Exception as error:  # noqa: BLE001 - an unanswered request is a finding
                lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                says = f"does not answer: {type(error).__name__}: {lines[-1].strip()}"
                found.append((name, fail("node", says, "install this release there, with the same Python and Ray")))
    for examiner in examiners.values():
        ray.kill(examiner)
    return found


def _put(output: str | None, stack: ExitStack) -> str | None:
    """Return the name of a file kept in output until the stack ends; None if it cannot be written."""
    if output is None:
        return None
    try:
        return stack.enter_context(probe(Folder.at(output), "from the machine that asks"))
    except (GareError, OSError):
        return None


class Examiner:
    """Examines the node it runs on."""

    def look(self, wanted: Wanted) -> list[Finding]:
        """Examine this node."""
        return look(wanted)

    def now(self) -> float:
        """Return this node's clock, in seconds since the epoch."""
        return time.time()


def _examiner(node: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, num_gpus=0, scheduling_strategy=place)(Examiner).remote()


def _clock(examiner: Any) -> Finding:
    """Compare the node's clock with this one, by the fastest of several answers."""
    import ray

    best, skew = float("inf"), 0.0
    for _ in range(CLOCK_TRIES):
        before = time.time()
        there = ray.get(examiner.now.remote(), timeout=ANSWER_SECONDS)
        after = time.time()
        if after - before < best:
            best, skew = after - before, there - (before + after) / 2
    return check_clock(skew, within=best / 2)

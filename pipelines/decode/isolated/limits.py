"""What a decoding process may use: set by itself, for each video, kept by the system."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_S = 1  # the check at each packet comes first
MOST = 2**31


def die_with(lifeline: int) -> None:
    """Have this process killed when the last writer of the pipe ``lifeline`` is gone, whatever it is doing.

    The system sends the signal, so neither a hang nor a held lock is in the way; and unlike Linux's parent death
    signal it does not depend on the thread that started this process. Where SIGIO ends nothing (other than Linux),
    this process ends when it next looks for a request.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def no_core_dumps() -> None:
    """A crash is recorded in the ledger; a file of the process's memory helps nobody and may fill the disk."""
    _set(resource.RLIMIT_CORE, 0)


def data_bytes() -> int | None:
    """Bytes of this process's private writable memory; None where the system does not tell (other than Linux)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmData:")), None)
    return None if line is None else int(line.split()[1]) * 1024


@contextmanager
def memory_within(most: int | None) -> Iterator[None]:
    """Let allocations fail that would bring ``data_bytes`` above ``most``; None: no limit."""
    before = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if most is not None:
        _set(resource.RLIMIT_DATA, most)
    try:
        yield
    finally:
        _set(resource.RLIMIT_DATA, before)


@contextmanager
def cpu_within(seconds: float) -> Iterator[None]:
    """Have this process killed by SIGXCPU when the block takes over ``seconds`` of processor time, to a second or two.

    Catches what never comes back to a check: a hang inside one call of the decoder.
    """
    before = resource.getrlimit(resource.RLIMIT_CPU)[0]
    _set(resource.RLIMIT_CPU, min(MOST, math.ceil(time.process_time() + min(seconds, MOST)) + GRACE_S))
    try:
        yield
    finally:
        _set(resource.RLIMIT_CPU, before)


def _set(kind: int, soft: int) -> None:
    """Set a soft limit, not above the hard one; a system that refuses goes without."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY and (soft > hard or soft == resource.RLIM_INFINITY):
        soft = hard
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (soft, hard))

"""A child process that answers requests: started at first use, ended when it can no longer be trusted."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from gare.common.errors import RunError
from gare.config.decoders import DEFAULT
from gare.config.prepare import LimitsConfig
from pipelines.decode.backends import backend, child_environment, missing
from pipelines.decode.errors import DecodeError, out_of_time
from pipelines.decode.isolated.messages import (
    HEADER_BYTES,
    Garbled,
    Request,
    answer_of,
    receive_bytes,
    receive_header,
    send,
    shown,
)

START_S = 300.0  # a busy machine takes long to start Python
END_S = 10.0  # a process that waits for a dead disk survives even a kill
LONGEST_WAIT_S = 3600.0  # between two checks

Checked = TypeVar("Checked")


class WaitedError(DecodeError):
    """The child was ended because it waited too long for storage or the network."""


class Stalled(Exception):  # noqa: N818 - names a state
    """The child has waited too long."""


@dataclass(frozen=True)
class _Child:
    """A running child: its process, the socket to it, the pipe that ends it when closed, and its owner's process id."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    lifeline: IO[bytes]
    owner: int

    def end(self) -> int | None:
        """Kill it, unless it belongs to the process this one was forked from; return its exit status, if it has one."""
        self.connection.close()
        self.lifeline.close()
        if self.owner != os.getpid():
            return None
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(END_S)
        return None


class Process:
    """A child that runs ``module`` and serves one request after another. For one thread at a time.

    The child ends with the process that started it, however that process ends.
    """

    def __init__(self, module: str) -> None:
        self._module, self._decoder = module, DEFAULT
        self._child: _Child | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Id of the child, if there is one."""
        return None if self._child is None else self._child.process.pid

    def ask(
        self, request: Request, check: Callable[[dict[str, Any], int], Checked], header_bytes: int = HEADER_BYTES
    ) -> tuple[Checked, bytearray]:
        """Send a request with one answer and return it, raising the DecodeError it reports; see ``answers``."""
        given = next(self.answers(request, check, 1, header_bytes))
        if isinstance(given, DecodeError):
            raise given
        return given

    def answers(
        self,
        request: Request,
        check: Callable[[dict[str, Any], int], Checked],
        count: int,
        header_bytes: int = HEADER_BYTES,
    ) -> Iterator[tuple[Checked, bytearray] | DecodeError]:
        """Send a request and yield its ``count`` answers as they come; their headers may have ``header_bytes``.

        ``check``: turns an answer's result and the number of bytes after it into a checked value, or raises ValueError
        or Garbled. Raises the DecodeError that ends the answers: the child's own, or ``crashed``, ``timeout`` or
        ``memory`` if it dies or has to be killed; RunError if no child can be started.
        """
        child, left = self._running(), count
        try:
            while left:
                given = self._answer(child, request, check, header_bytes, ask=left == count)
                left -= 1
                yield given
        except DecodeError:
            left = 0
            raise
        finally:
            if left:  # interrupted: the next request would receive its answers
                self.end()

    def _answer(
        self,
        child: _Child,
        request: Request,
        check: Callable[[dict[str, Any], int], Checked],
        header_bytes: int,
        *,
        ask: bool,
    ) -> tuple[Checked, bytearray] | DecodeError:
        kills = oom_kills()
        patience = Patience(child.process.pid, request.limits.wait_seconds)
        try:
            if ask:
                send(child.connection, request)
            header, payload = receive_header(child.connection, header_bytes, patience=patience)
            answer = answer_of(header, payload, request.id)
            failure = answer.failure()
            if failure is None:
                return check(answer.result, payload), receive_bytes(child.connection, payload, patience=patience)
        except (EOFError, OSError):
            raise self._death(child, request.limits, kills) from None
        except Stalled:
            self.end()
            limit = f"{request.limits.wait_seconds:g} s"
            raise WaitedError("timeout", f"More than {limit} of waiting for storage or the network.") from None
        except (Garbled, ValueError) as error:
            self.end()
            reason = shown(str(error).partition("\n")[0])
            raise DecodeError("crashed", f"The decoder gave no valid answer: {reason}.") from None
        if failure.kind == "memory":  # the memory it still holds would be missing next time
            self.end()
        if answer.ends or failure.kind == "memory":
            raise failure
        return failure

    def use(self, decoder: str) -> None:
        """Select the row of ``DECODERS`` that the child loads; end a child that loaded another."""
        if decoder != self._decoder:
            self.end()
            self._decoder = decoder

    def end(self) -> None:
        """End the child, if there is one; the next request starts a new one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def stop(self) -> None:
        """Kill the child, from any thread, and start no other; the thread that uses it cleans up."""
        self._stopped = True
        child = self._child
        if child is not None:
            child.process.kill()

    def _running(self) -> _Child:
        """Return a living child of this process, starting one if necessary."""
        if self._child is not None and (self._child.owner != os.getpid() or self._child.process.poll() is not None):
            self.end()
        if self._child is None and not self._stopped:
            self._child = _started(self._module, self._decoder)
        if self._stopped or self._child is None:
            self.end()
            raise RunError("Decoding was stopped.")
        return self._child

    def _death(self, child: _Child, limits: LimitsConfig, kills: int) -> DecodeError:
        """Clean up after a dead child and return the cause of its death."""
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(END_S)
        code = child.process.poll()
        self.end()
        if code is None:
            return DecodeError("crashed", "The decoder stopped answering.")
        if code == -signal.SIGXCPU:
            return out_of_time(limits.cpu_seconds)
        if code == -signal.SIGKILL and oom_kills() > kills:
            return DecodeError("memory", "The machine ran out of memory, and the system ended the decoder.")
        if code < 0:
            return DecodeError("crashed", f"The decoder was ended by {_signal_name(-code)}.")
        return DecodeError("crashed", f"The decoder ended with exit status {code}.")


def _started(module: str, decoder: str) -> _Child:
    """Start a child and wait until it is ready. Raises RunError if it does not become ready."""
    errors = None if _is_open(2) else subprocess.DEVNULL
    with backend(decoder).environment() as variables, ExitStack() as on_failure:
        connection, theirs = socket.socketpair()
        on_failure.enter_context(connection)
        reading, writing = os.pipe()
        lifeline = on_failure.enter_context(os.fdopen(writing, "wb", buffering=0))
        handles = [_above_standard(theirs.detach()), _above_standard(reading)]
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, handles), decoder],
                pass_fds=handles,
                env={**child_environment(), **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the parent only
            )
        except OSError as error:
            raise RunError(f"A decoder process could not be started: {error.strerror}.") from None
        finally:
            for handle in handles:
                os.close(handle)
        child = _Child(process, connection, lifeline, os.getpid())
        on_failure.callback(child.end)
        try:
            header, payload = receive_header(connection, patience=Patience(process.pid, START_S))
            answer_of(header, payload, 0)
        except (OSError, EOFError, Garbled, Stalled, DecodeError):
            why = missing(decoder) or "What it wrote to standard error may say why."
            raise RunError(f"A decoder process could not be started. {why}") from None
        on_failure.pop_all()
    return child


class Patience:
    """Limit on waiting for a child: ``limit`` seconds in which it neither computes nor waits for a processor.

    This way, an overloaded machine never makes a video late. On systems other than Linux, which do not report this,
    all time counts.
    """

    def __init__(self, pid: int, limit: float) -> None:
        self._pid, self._limit = pid, limit
        self._started, self._busy = time.monotonic(), _busy_s(pid)

    def __call__(self) -> float:
        """Return the seconds until the next check. Raises Stalled if none are left."""
        waited = time.monotonic() - self._started
        if waited >= self._limit:
            waited -= _busy_s(self._pid) - self._busy
        if waited >= self._limit:
            raise Stalled
        return min(max(self._limit - waited, 0.01), LONGEST_WAIT_S)


def oom_kills() -> int:
    """Count the processes that Linux has killed for lack of memory since it booted; 0 on other systems."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _busy_s(pid: int) -> float:
    """Return the seconds a process has computed or been ready to; 0.0 if the system does not say."""
    try:
        ran, ready = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        return 0.0
    return (int(ran) + int(ready)) / 1e9


def _above_standard(handle: int) -> int:
    """Move a file descriptor above standard input, output and error, which a worker may have closed."""
    if handle > 2:
        return handle
    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(handle)
    return moved


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

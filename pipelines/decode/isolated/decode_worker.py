"""The decoding process: its limits and its loop; ``process`` starts it with ``python -m``."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gare.common.files import file_digest
from pipelines.decode import Clip
from pipelines.decode.backends import backend
from pipelines.decode.errors import DecodeError
from pipelines.decode.isolated.messages import (
    REQUEST_BYTES,
    Answer,
    DecodeRequest,
    Message,
    Request,
    header_of,
    receive_header,
    send,
    shown,
)
from pipelines.decode.video import decode_clips

GRACE_S = 1  # lets the check at each packet come first
MOST = 2**31


def die_with(lifeline: int) -> None:
    """Have this process killed once the last writer of the pipe ``lifeline`` is gone, whatever it is doing.

    The system sends the signal, so neither a hang nor a held lock can prevent it; and unlike Linux's parent death
    signal it does not depend on the thread that started this process. Where SIGIO does not end a process (other than
    Linux), this process ends when it next reads a request.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def no_core_dumps() -> None:
    """Disable core dumps: the ledger records crashes, and a dump of the process's memory may fill the disk."""
    _set(resource.RLIMIT_CORE, 0)


def data_bytes() -> int | None:
    """Return the bytes of this process's private writable memory; None on systems other than Linux."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmData:")), None)
    return None if line is None else int(line.split()[1]) * 1024


@contextmanager
def memory_within(most: int | None) -> Iterator[None]:
    """Make allocations fail that would bring ``data_bytes`` above ``most``; None: no limit."""
    before = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if most is not None:
        _set(resource.RLIMIT_DATA, most)
    try:
        yield
    finally:
        _set(resource.RLIMIT_DATA, before)


@contextmanager
def cpu_within(seconds: float) -> Iterator[None]:
    """Have this process killed by SIGXCPU if the block takes over ``seconds`` of processor time, to a second or two.

    This catches a hang inside a single call of the decoder, which never reaches a check.
    """
    before = resource.getrlimit(resource.RLIMIT_CPU)[0]
    _set(resource.RLIMIT_CPU, min(MOST, math.ceil(time.process_time() + min(seconds, MOST)) + GRACE_S))
    try:
        yield
    finally:
        _set(resource.RLIMIT_CPU, before)


def _set(kind: int, soft: int) -> None:
    """Set a soft limit, at most the hard one; ignore systems that do not allow it."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY and (soft > hard or soft == resource.RLIM_INFINITY):
        soft = hard
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (soft, hard))


Asked = TypeVar("Asked", bound=Request)
Result = tuple[Message, Sequence[NDArray[np.uint8]]]


def serve(kind: type[Asked], handle: Callable[[Asked], Result]) -> None:
    """Serve requests as ``serve_many`` does, with one answer per request."""

    def once(request: Asked) -> Iterator[Result]:
        yield handle(request)

    serve_many(kind, once)


def serve_many(kind: type[Asked], handle: Callable[[Asked], Iterator[Result | DecodeError]]) -> None:
    """Answer requests of a ``kind`` with what ``handle`` yields, on the socket and lifeline of the command line.

    Each answer is sent before the next one is made. An exception from ``handle`` never ends the process, only the
    answers to that request. Standard input and output are not used, so that nothing a library prints becomes part
    of an answer.
    """
    connection = socket.socket(fileno=int(sys.argv[1]))
    die_with(int(sys.argv[2]))
    no_core_dumps()
    own = data_bytes()
    try:
        send(connection, Answer(id=0))  # tells the parent that starting succeeded
        while True:
            request = kind.model_validate_json(receive_header(connection, REQUEST_BYTES)[0])
            for answer, payload in _answers(request, handle(request), own):
                send(connection, answer, payload)
    except (EOFError, OSError):
        return  # the parent is gone


def _answers(
    request: Request, results: Iterator[Result | DecodeError], own: int | None
) -> Iterator[tuple[Answer, Sequence[NDArray[np.uint8]]]]:
    most = None if own is None else own + request.limits.memory_bytes
    while True:
        ends = True
        try:
            with memory_within(most):
                given = next(results, None)
            if given is None:
                return
            if not isinstance(given, DecodeError):
                result, payload = given
                yield Answer(id=request.id, result=result.model_dump()), payload
                continue
            kind, message, ends = given.kind, given.message, False
        except DecodeError as error:
            kind, message = error.kind, error.message
        except MemoryError:
            kind, message = "memory", f"More than {request.limits.memory_bytes} bytes of memory."
        except Exception as error:  # noqa: BLE001 - no video may end the process
            kind, message = "internal", f"{type(error).__name__}: {error}".splitlines()[0]
        yield Answer(id=request.id, kind=kind, message=shown(message), ends=ends), ()
        if ends:
            return


AHEAD = 3
"""Factor on the time for many clips: some are decoded together, and several ways may be tried, each with its time."""


def decode(request: DecodeRequest) -> Iterator[Result | DecodeError]:
    """Decode the clips of a video in order, and compute its file's digest once the first one is decoded."""
    path, facts = Path(request.path), None
    decoded = decode_clips(path, recipe=request.recipe, clips=[Clip(*bounds) for bounds in request.clips])
    for _ in request.clips:
        with cpu_within(request.limits.cpu_seconds * (AHEAD if len(request.clips) > 1 else 1)):
            video = next(decoded)
        if isinstance(video, DecodeError):
            yield video
            continue
        facts = facts or _facts(path, digest=request.digest)
        yield header_of(video, *facts), video.frames


def _facts(path: Path, *, digest: bool) -> tuple[int, str | None]:
    """Return the size and SHA-256 of a file. Raises DecodeError if it cannot be read to its end."""
    try:
        return path.stat().st_size, file_digest(path) if digest else None
    except OSError as error:
        raise DecodeError("unreachable", f"Reading it failed: {error.strerror or error}.") from None


if __name__ == "__main__":
    backend(sys.argv[3]).load()  # its own memory must not count towards a video's
    serve_many(DecodeRequest, decode)

"""The loop of a process that is asked: a request, one answer or several, until nobody asks any more."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.errors import DecodeError
from pipelines.decode.isolated import limits
from pipelines.decode.isolated.messages import REQUEST_BYTES, Answer, Message, Request, receive_header, send, shown

Asked = TypeVar("Asked", bound=Request)
Result = tuple[Message, Sequence[NDArray[np.uint8]]]


def serve(kind: type[Asked], handle: Callable[[Asked], Result]) -> None:
    """As ``serve_many``, with one answer to each request."""

    def once(request: Asked) -> Iterator[Result]:
        yield handle(request)

    serve_many(kind, once)


def serve_many(kind: type[Asked], handle: Callable[[Asked], Iterator[Result | DecodeError]]) -> None:
    """Answer requests of a ``kind`` by what ``handle`` yields, on the socket and with the lifeline of the command line.

    Each answer is sent before the next one is made. Nothing that ``handle`` raises ends the process; it ends the
    answers to that request. Standard input and output are not used, so that whatever a library prints is no part of
    an answer.
    """
    connection = socket.socket(fileno=int(sys.argv[1]))
    limits.die_with(int(sys.argv[2]))
    limits.no_core_dumps()
    own = limits.data_bytes()
    try:
        send(connection, Answer(id=0))  # what went wrong before this was no video's fault
        while True:
            request = kind.model_validate_json(receive_header(connection, REQUEST_BYTES)[0])
            for answer, payload in _answers(request, handle(request), own):
                send(connection, answer, payload)
    except (EOFError, OSError):
        return  # nobody is there


def _answers(
    request: Request, results: Iterator[Result | DecodeError], own: int | None
) -> Iterator[tuple[Answer, Sequence[NDArray[np.uint8]]]]:
    most = None if own is None else own + request.limits.memory_bytes
    while True:
        ends = True
        try:
            with limits.memory_within(most):
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
        except Exception as error:  # noqa: BLE001 - one video never ends the process
            kind, message = "internal", f"{type(error).__name__}: {error}".splitlines()[0]
        yield Answer(id=request.id, kind=kind, message=shown(message), ends=ends), ()
        if ends:
            return

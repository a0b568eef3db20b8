"""The loop of a process that is asked: one request, one answer, until nobody asks any more."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.errors import DecodeError
from pipelines.decode.isolated import limits
from pipelines.decode.isolated.messages import Answer, Message, Request, receive_header, send, shown

Asked = TypeVar("Asked", bound=Request)
Result = tuple[Message, Sequence[NDArray[np.uint8]]]


def serve(kind: type[Asked], handle: Callable[[Asked], Result]) -> None:
    """Answer requests of a ``kind`` by ``handle``, on the socket and with the lifeline the command line names.

    Nothing that ``handle`` raises ends the process. Standard input and output are not used, so that whatever a
    library prints is no part of an answer.
    """
    connection = socket.socket(fileno=int(sys.argv[1]))
    limits.die_with(int(sys.argv[2]))
    limits.no_core_dumps()
    own = limits.data_bytes()
    try:
        send(connection, Answer(id=0))  # what went wrong before this was no video's fault
        while True:
            request = kind.model_validate_json(receive_header(connection)[0])
            send(connection, *_answer(request, handle, own))
    except (EOFError, OSError):
        return  # nobody is there


def _answer(request: Asked, handle: Callable[[Asked], Result], own: int | None) -> Result:
    most = None if own is None else own + request.limits.memory_bytes
    try:
        with limits.memory_within(most):
            result, payload = handle(request)
        return Answer(id=request.id, result=result.model_dump()), payload
    except DecodeError as error:
        kind, message = error.kind, error.message
    except MemoryError:
        kind, message = "memory", f"More than {request.limits.memory_bytes} bytes of memory."
    except Exception as error:  # noqa: BLE001 - one video never ends the process
        kind, message = "internal", f"{type(error).__name__}: {error}".splitlines()[0]
    return Answer(id=request.id, kind=kind, message=shown(message)), ()

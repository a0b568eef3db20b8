"""Run the server in a thread, so that its caller can stop it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from gare.common.errors import InputError, RunError

GOODBYE_S = 3
"""Seconds that open answers get to finish when the server stops."""

LONGEST_HEADERS = 2**15
CONNECTIONS = 1000


def bind(host: str, port: int) -> socket.socket:
    """Take an address to listen on; port 0: any that is free. Raises InputError if it cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio turns off Nagle's delay of 40 ms only for sockets that name their protocol.
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host} is no address of this machine: {error}.") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"Port {port} of {host} is taken; choose another with --port, or 0 for any.") from None
        raise InputError(f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}.") from None
    return listening


def is_local(host: str) -> bool:
    """Return True if only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def serving(app: Starlette, listening: socket.socket) -> Iterator[threading.Event]:
    """Serve within the block; yield an event that is set if the server ends. Open answers may finish first."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GOODBYE_S,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=LONGEST_HEADERS,
    )
    server, ended = uvicorn.Server(config), threading.Event()

    def run() -> None:
        try:
            server.run(sockets=[listening])
        finally:
            ended.set()

    # Waiting for an event and not for the thread: a signal during Thread.join makes Python believe that it has ended.
    threading.Thread(target=run, name="server", daemon=True).start()
    try:
        while not server.started and not ended.is_set():
            time.sleep(0.01)
        if ended.is_set():
            raise RunError("The server ended as it started.")
        yield ended
    finally:
        server.should_exit = True
        ended.wait()
        listening.close()

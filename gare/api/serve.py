"""``gare.serve``: answer searches of an index over HTTP."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from urllib.parse import quote

from gare.api import public
from gare.api.search import open_searchable
from gare.api.settings import Place, check_texts, whole
from gare.common.errors import InputError
from gare.retrieval.index import SearchIndex
from gare.serving.app import make_app
from gare.serving.guard import LOCAL
from gare.serving.library import QUEUE
from gare.serving.server import bind, is_local, serving

TOKEN_BYTES = 24
FEWEST_CHARACTERS = 16


@public
def serve(
    index: SearchIndex | Place,
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    token: str | None = None,
    allow_hosts: Collection[str] = (),
    threads: int | None = None,
    queue: int = QUEUE,
    checkpoint: Place | None = None,
    on_start: Callable[[str, SearchIndex], None] | None = None,
) -> None:
    """Serve a page and a JSON API to search an index, until interrupted (Ctrl-C, ``KeyboardInterrupt``).

    New generations of the index are taken up while it is served.

    Args:
        index: what ``gare.index`` returned, or its folder.
        host: the address to listen on. Unless only this machine can reach it, every request needs a token.
        port: the port; 0 for any that is free.
        token: the token, 16 characters or more; made up by default where one is needed.
        allow_hosts: without a token, more names by which requests may call this server.
        threads: searches at once; a few by default.
        queue: most searches that wait; beyond, the answer is status 503.
        checkpoint: where the model of a folder's index is now, if you moved it.
        on_start: called with the page's address, token included, and the index once the server answers.

    Raises:
        ConfigError: the checkpoint has other weights.
        InputError: the index cannot be read, or the address cannot be used.
    """
    port, queue = whole("port", port, 0, 65535), whole("queue", queue, 0)
    threads = None if threads is None else whole("threads", threads, 1)
    check_texts("allow_hosts", allow_hosts)
    if token is not None and (len(token) < FEWEST_CHARACTERS or not token.isascii() or not token.isprintable()):
        raise InputError(f"A token has {FEWEST_CHARACTERS} characters or more, all of them ASCII.")
    local = is_local(host)
    if token is None and not local:
        token = secrets.token_urlsafe(TOKEN_BYTES)
    with bind(host, port) as listening:
        opened = open_searchable(index, checkpoint)
        app = make_app(
            opened,
            token=token,
            hosts={*LOCAL, host, *allow_hosts},
            threads=threads,
            queue=queue,
        )
        with suppress(KeyboardInterrupt), serving(app, listening) as ended:
            if on_start is not None:
                on_start(_address(host, listening.getsockname()[1], token), opened)
            ended.wait()


def _address(host: str, port: int, token: str | None) -> str:
    try:
        anywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = False
    host = socket.gethostname() if anywhere else host
    named = f"[{host}]" if ":" in host else host
    return f"http://{named}:{port}/" + ("" if token is None else f"?token={quote(token, safe='')}")

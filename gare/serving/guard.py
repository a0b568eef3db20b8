"""Who may ask: the host and the site that a request names, the token; and headers that bind the browser."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gare.common.console import warn
from gare.common.redact import sentence

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = "/healthz"
"""The route that needs no token."""

SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Wraps an application: refuses requests that may not be answered, and adds the headers of ``SAFE``.

    Without a token, a request has to name one of the hosts, so that no foreign name that leads here can read answers
    (DNS rebinding). With a token, any host does. Pages of other sites cannot load anything in either case. An error in
    the application is answered with status 500.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = LOCAL, token: str | None = None) -> None:
        self._app, self._hosts, self._token = app, frozenset(name.lower() for name in hosts), token
        # Browsers share cookies between the ports of a host, so each token has its own.
        self._cookie = f"gare_{hashlib.sha256((token or '').encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await (self._refuse(scope) or self._app)(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - details are for the one who serves, not for the one who asks
            warn(sentence(f"{scope['path']}: {type(error).__name__}: {error}"))
            if not started:
                await _error(500, "The server could not answer; its terminal says why.")(scope, receive, sent)

    def _refuse(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return _error(405, "Only GET is answered.", allow="GET, HEAD")
        if self._token is None and _host(headers) not in self._hosts:
            return _error(403, "This server answers to its own name only; gare serve --allow-host adds another.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not (
            path == "/" and headers.get("sec-fetch-mode") == "navigate"
        ):
            return _error(403, "This server does not answer to the pages of other sites.")
        return None if self._token is None or path == OPEN else self._check_token(scope, headers, self._token)

    def _check_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _same(given, token):
            response = RedirectResponse("/", 303)
            response.set_cookie(self._cookie, token, httponly=True, samesite="lax", max_age=30 * 86400)
            return response
        kind, _, value = headers.get("authorization", "").partition(" ")
        if (kind.lower() == "bearer" and _same(value.strip(), token)) or _same(self._kept(headers), token):
            return None
        return _error(
            401, "Open the address with its token, as gare serve printed it.", **{"www-authenticate": "Bearer"}
        )

    def _kept(self, headers: Headers) -> str:
        return cookie_parser(headers.get("cookie", "")).get(self._cookie, "")


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _host(headers: Headers) -> str | None:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def _error(code: int, says: str, **headers: str) -> Response:
    return JSONResponse({"error": says}, code, headers)

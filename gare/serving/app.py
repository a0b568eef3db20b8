"""The routes of the server: a page, and a JSON API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gare.common.errors import InputError
from gare.common.page import environment
from gare.common.redact import sentence
from gare.retrieval.index import SearchIndex
from gare.serving.answers import MOST_OFFSET, MOST_QUERY, MOST_TOP, MOST_WHERE, Failure, Health, openapi
from gare.serving.guard import LOCAL, Guard
from gare.serving.library import QUEUE, Asked, BusyError, Library
from gare.serving.sources import find_source

T = TypeVar("T")

RETRY_S = 1
PREVIEW_CACHE = "private, max-age=86400, immutable"
FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


def make_app(
    index: SearchIndex,
    *,
    token: str | None = None,
    hosts: Collection[str] = LOCAL,
    threads: int | None = None,
    queue: int = QUEUE,
) -> Starlette:
    """Make the ASGI application that serves an opened index.

    Args:
        index: the index; its later generations are taken up while the application runs.
        token: what every request has to bring; None: none, and then requests must name one of ``hosts``.
        hosts: names of this server.
        threads: number of searches at once; a few by default.
        queue: most searches that wait; more get status 503.
    """
    library = Library(index, threads=threads, queue=queue)
    routes = [
        Route("/", _page),
        Route("/page.css", _style),
        Route("/page.js", _script),
        Route("/page.svg", _icon),
        Route("/openapi.json", _schema),
        Route("/healthz", _health),
        Route("/api/search", _search),
        Route("/api/similar/{id:path}", _similar),
        Route("/api/video/{id:path}", _video),
        Route("/api/preview/{id:path}", _preview),
        Route("/api/about", _about),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refused, BusyError: _busy}
    guard = Middleware(Guard, hosts=hosts, token=token)
    app = Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=_lifespan)
    app.router.redirect_slashes = False
    app.state.library = library
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    watching = asyncio.create_task(app.state.library.watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        app.state.library.close()


async def _page(request: Request) -> Response:
    text = environment(__package__).get_template("page.html").render(name=_library(request).name)
    return Response(text, media_type="text/html")


async def _style(_: Request) -> Response:
    return Response(_file("page.css"), media_type="text/css")


async def _script(_: Request) -> Response:
    return Response(_file("page.js"), media_type="text/javascript")


async def _icon(_: Request) -> Response:
    return Response(_file("page.svg"), media_type="image/svg+xml")


async def _schema(_: Request) -> Response:
    return JSONResponse(openapi())


async def _health(request: Request) -> Response:
    return _json(Health(generation=_library(request).shelf.generation))


async def _about(request: Request) -> Response:
    library = _library(request)
    return _json(await library.run(library.about))


async def _search(request: Request) -> Response:
    query = _only(request.query_params, "q")
    if query is None or not query.strip():
        raise HTTPException(400, "Give a sentence: q=...")
    if len(query) > MOST_QUERY:
        raise HTTPException(400, f"The query is longer than {MOST_QUERY:,} characters.")
    return await _answer(request, query=query)


async def _similar(request: Request) -> Response:
    return await _answer(request, like=request.path_params["id"])


async def _answer(request: Request, *, query: str | None = None, like: str | None = None) -> Response:
    library, given = _library(request), request.query_params
    shelf = library.shelf
    asked = Asked(
        query,
        like,
        _number(given, "top", 12, 1, MOST_TOP),
        _number(given, "offset", 0, 0, MOST_OFFSET),
        _where(given.getlist("where"), shelf.facets.names),
        _flag(given, "exact"),
    )
    if like is not None:
        await _found(lambda: shelf.index.find(like))
    return _json(await library.run(lambda: shelf.search(asked)))


async def _video(request: Request) -> Response:
    video_id, shelf = request.path_params["id"], _library(request).shelf

    def respond() -> Response:
        return find_source(*shelf.source(video_id)).response(request.headers.get("range"))

    return await _found(respond)


async def _preview(request: Request) -> Response:
    video_id, shelf = request.path_params["id"], _library(request).shelf
    number = _number(request.query_params, "n", 0, 0, 10**6)
    content = await _found(lambda: shelf.picture(video_id, number))
    return Response(content, media_type="image/jpeg", headers={"cache-control": PREVIEW_CACHE})


async def _found(look: Callable[[], T]) -> T:
    """Look something up in a thread that no search holds; 404 if it is not there."""
    try:
        return await run_in_threadpool(look)
    except InputError as error:
        raise HTTPException(404, sentence(str(error))) from None


def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


def _where(given: list[str], known: list[str]) -> dict[str, str]:
    if len(given) > MOST_WHERE:
        raise HTTPException(400, f"There are more than {MOST_WHERE} filters.")
    found = {}
    for text in given:
        cuts = [place for place, character in enumerate(text) if character == "="]
        if not cuts or len(text) > MOST_QUERY:
            raise HTTPException(400, "A filter is where=KEY=VALUE.")
        cut = next((place for place in cuts if text[:place] in known), None)  # a name may hold an equals sign
        if cut is None:
            raise HTTPException(400, "No video of the index has such an attribute; /api/about lists them.")
        if text[:cut] in found:
            raise HTTPException(400, "An attribute is given more than once.")
        found[text[:cut]] = text[cut + 1 :]
    return found


def _only(given: QueryParams, name: str) -> str | None:
    values = given.getlist(name)
    if len(values) > 1:
        raise HTTPException(400, f"{name} is given more than once.")
    return values[0] if values else None


def _number(given: QueryParams, name: str, default: int, least: int, most: int) -> int:
    text = _only(given, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise HTTPException(400, f"{name} must be a whole number from {least:,} to {most:,}.")
    return int(text)


def _flag(given: QueryParams, name: str) -> bool:
    value = FLAGS.get((_only(given, name) or "").lower())
    if value is None:
        raise HTTPException(400, f"{name} must be true or false.")
    return value


def _json(answer: BaseModel, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), code, headers, "application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return _json(Failure(error=error.detail), error.status_code, dict(error.headers or {}))


async def _busy(_: Request, __: Exception) -> Response:
    return _json(Failure(error="Too many searches are waiting; ask again."), 503, {"retry-after": str(RETRY_S)})


@cache
def _file(name: str) -> str:
    return str(environment(__package__).get_template(name).render())

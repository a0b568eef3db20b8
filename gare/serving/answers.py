"""The answers of the JSON API, and the OpenAPI document that describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from gare import __version__

MOST_QUERY, MOST_TOP, MOST_OFFSET, MOST_WHERE = 1000, 100, 1000, 16
"""Limits of a request: characters of a query or of an attribute, answers, answers to skip, and attributes."""


class Answer(BaseModel):
    """A frozen part of an answer."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class Picture(Answer):
    """A small picture of a video."""

    url: str
    at_s: float = Field(description="When it is shown, in seconds of the file.")


class Moment(Answer):
    """A clip of a file that matches, or a whole file."""

    id: str
    rank: int = Field(description="From 1, among all clips.")
    score: float = Field(description="Cosine of the query and the clip.")
    seconds: tuple[float, float] | None = Field(
        description="Start and end, in seconds of the file, of the window that the query fits best; null if unknown."
    )
    start_s: float = Field(description="Where to begin playing: the start of the window, or of the clip.")


class Video(Moment):
    """A file that matches, with its best moment."""

    name: str = Field(
        description="What to call the file: the id, without the seconds if it is a clip of a longer file."
    )
    uri: str = Field(description="The source as the manifest names it, without secrets.")
    attributes: dict[str, str]
    video: str | None = Field(description="Where a browser can play the file; null if it cannot.")
    why_not: str | None = Field(description="Why it cannot be played.")
    pictures: list[Picture]
    moments: list[Moment] = Field(description="Further clips of the same file that match, best first.")


class Count(Answer):
    """A value of an attribute."""

    value: str
    videos: int


class Facet(Answer):
    """An attribute: its most frequent values under the present filter."""

    name: str
    values: list[Count]
    more: int = Field(description="Number of further values.")


class Found(Answer):
    """How the answers were found."""

    videos: int = Field(description="Number of possible answers.")
    scored: int = Field(description="How many of them were scored exactly.")
    recall: float | None = Field(description="Share of the exact top 10 that as many hold on this index, if known.")
    unknown: bool = Field(description="The words are unlike all that the index knows, so the search was wide.")
    partial: bool = Field(description="A part of the index could not be searched.")
    missing: int = Field(description="Number of videos in parts that cannot be read.")
    text: str = Field(description="The same as a sentence.")
    milliseconds: float


class Results(Answer):
    """The answer to a search: files, best first."""

    results: list[Video]
    more: bool = Field(description="There may be further answers at a larger offset.")
    searched: Found
    facets: list[Facet]
    generation: int


class About(Answer):
    """The index that is served."""

    name: str
    videos: int
    missing: int
    generation: int
    model: str
    first_stage: bool
    previews: bool
    windows: bool
    facets: list[Facet]
    problem: str | None = Field(description="Why a newer generation of the index could not be taken up.")
    version: str = __version__


class Health(Answer):
    """The server answers."""

    status: str = "ok"
    generation: int


class Failure(Answer):
    """A request that cannot be answered."""

    error: str


def _parameter(name: str, says: str, kind: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": says, "schema": kind, **more}


ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "A video's id, encoded.",
}
TEXT = {"type": "string", "maxLength": MOST_QUERY}
SEARCHING = [
    _parameter("top", "Number of files.", {"type": "integer", "minimum": 1, "maximum": MOST_TOP, "default": 12}),
    _parameter("offset", "Files to skip.", {"type": "integer", "minimum": 0, "maximum": MOST_OFFSET, "default": 0}),
    _parameter(
        "where",
        "KEY=VALUE: only videos with this attribute; repeat it for more.",
        {"type": "array", "items": {"type": "string"}, "maxItems": MOST_WHERE},
        style="form",
        explode=True,
    ),
    _parameter("exact", "Score every video.", {"type": "boolean", "default": False}),
]


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the API."""
    models = (Results, About, Health, Failure)
    _, schemas = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    query = _parameter("q", "The sentence.", TEXT, required=True)
    return {
        "openapi": "3.1.0",
        "info": {"title": "GARE search", "version": __version__},
        "security": [{}, {"token": []}],
        "paths": {
            "/api/search": _get("Find the videos that a sentence describes.", Results, [query, *SEARCHING]),
            "/api/similar/{id}": _get("Find the videos most like another one.", Results, [ID, *SEARCHING]),
            "/api/video/{id}": _get("The file of a video; ranges are answered.", "video/*", [ID]),
            "/api/preview/{id}": _get(
                "A small picture of a video.",
                "image/jpeg",
                [ID, _parameter("n", "Number of the picture, from 0.", {"type": "integer", "default": 0})],
            ),
            "/api/about": _get("The index, and its attributes with counts.", About, []),
            "/healthz": _get("Whether the server answers; needs no token.", Health, []),
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


FAILURES = {
    "400": "An argument is missing or out of its limits.",
    "401": "The token is missing or wrong.",
    "403": "The request comes from another site, or names another host.",
    "404": "There is no such video, file or picture.",
    "503": "Too many searches are waiting; Retry-After says when to ask again.",
}


def _get(says: str, answer: type[Answer] | str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {answer: {}} if isinstance(answer, str) else _json(answer)
    failures = {code: {"description": text, "content": _json(Failure)} for code, text in FAILURES.items()}
    responses = {"200": {"description": "The answer.", "content": content}, **failures}
    return {"get": {"summary": says, "parameters": parameters, "responses": responses}}


def _json(model: type[Answer]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}

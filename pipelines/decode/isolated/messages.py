"""The only messages that pass over the socket between a process and the one that decodes for it.

A message is two lengths, a JSON header and raw bytes. Pickle is not used: a decoder that a video has taken over can
send wrong values, which are checked here, but cannot make the reader run code.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode.clip_job import DecodedVideo
from pipelines.decode.errors import KINDS, NOTES, DecodeError
from pipelines.decode.picture import can_be_shape

LENGTHS = struct.Struct(">IQ")
HEADER_BYTES = 64 * 2**10
REQUEST_BYTES = 2**31  # requests come from the parent, which is trusted
HEADER_BYTES_PER_FRAME = 64  # a timestamp takes up to 25
SHOWN_CHARACTERS = 500
INT32, INT64 = 2**31 - 1, 2**63 - 1  # limits of the shards' columns
FACTS = tuple(name for name in DecodedVideo.__dataclass_fields__ if name != "frames")


class Garbled(Exception):  # noqa: N818 - says what the message is
    """The other side sent something that is not a valid message."""


class Message(BaseModel):
    """A header; unknown keys are rejected and no values are converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Request(Message):
    """Fields of every request: a number that identifies its answers, and its limits."""

    id: int
    limits: LimitsConfig


class DecodeRequest(Request):
    """Decode the ``clips`` (start and end) of ``path`` by ``recipe``, one answer each; ``digest``: send the SHA-256."""

    path: str
    recipe: PrepareConfig
    clips: Annotated[list[tuple[float | None, float | None]], Field(min_length=1)]
    digest: bool


class FetchRequest(Request):
    """Copy the file at ``uri`` into the file ``path``."""

    uri: str
    path: str


class Answer(Message):
    """An answer to the request ``id``: a result, or the kind of a failure and a sentence about it.

    ``ends``: no further answer to the request follows, however many it asked for.
    """

    id: int
    kind: str | None = None
    message: str = ""
    result: dict[str, Any] = Field(default_factory=dict)
    ends: bool = False

    def failure(self) -> DecodeError | None:
        """Return the failure it reports, or None."""
        return None if self.kind is None else DecodeError(self.kind, shown(self.message))


class Copied(Message):
    """A fetched file: its size, SHA-256 and, if the storage says, when it was last changed."""

    bytes: int = Field(ge=1, le=INT64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mtime_ns: int | None = Field(default=None, ge=-INT64, le=INT64)


class VideoHeader(Message):
    """A decoded video without its frames; ``shape`` is their number, height and width."""

    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    timestamps_s: list[float]
    codec: str = Field(pattern=r"^[\x21-\x7e]{1,64}$")
    width: int = Field(ge=1, le=INT32)
    height: int = Field(ge=1, le=INT32)
    fps: float | None
    duration_s: float | None
    notes: list[str]
    bytes: int = Field(ge=1, le=INT64)
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")

    def check(self, recipe: PrepareConfig, payload: int) -> None:
        """Raise Garbled unless ``recipe`` can produce this header with ``payload`` bytes of frames."""
        count, height, width = self.shape
        if not 1 <= count <= recipe.max_frames or len(self.timestamps_s) != count:
            raise Garbled(f"{count} frames at {len(self.timestamps_s)} times")
        if not can_be_shape(recipe, height, width):
            raise Garbled(f"frames of {height} x {width}")
        if payload != count * height * width * 3:
            raise Garbled(f"{payload} bytes for {count} frames")
        if not set(self.notes) <= NOTES.keys():
            raise Garbled("a note that there is not")

    def video(self, payload: bytearray) -> DecodedVideo:
        """Return the decoded video with its frames, which are views of ``payload``."""
        frames: NDArray[np.uint8] = np.frombuffer(payload, np.uint8).reshape(*self.shape, 3)
        return DecodedVideo(frames=list(frames), **{name: getattr(self, name) for name in FACTS})


def header_of(video: DecodedVideo, size: int, sha256: str | None) -> VideoHeader:
    """Describe a decoded video and its file of ``size`` bytes."""
    shape = [len(video.frames), *video.frames[0].shape[:2]]
    return VideoHeader(shape=shape, bytes=size, sha256=sha256, **{name: getattr(video, name) for name in FACTS})


def send(connection: socket.socket, header: Message, payload: Sequence[NDArray[np.uint8]] = ()) -> None:
    """Write a message. Raises OSError if the other side is gone."""
    text = header.model_dump_json().encode()
    connection.sendall(LENGTHS.pack(len(text), sum(part.nbytes for part in payload)) + text)
    for part in payload:
        connection.sendall(np.ascontiguousarray(part).data)


def receive_header(
    connection: socket.socket, at_most: int = HEADER_BYTES, *, patience: Callable[[], float | None] = lambda: None
) -> tuple[bytes, int]:
    """Read a header and the number of bytes that follow it.

    ``patience``: seconds to wait for the next byte, called before each wait; it may raise. Raises EOFError if the
    other side is gone, Garbled for a header of more than ``at_most`` bytes.
    """
    header, payload = LENGTHS.unpack(receive_bytes(connection, LENGTHS.size, patience=patience))
    if header > at_most:
        raise Garbled(f"a header of {header} bytes")
    return bytes(receive_bytes(connection, header, patience=patience)), payload


def receive_bytes(
    connection: socket.socket, size: int, *, patience: Callable[[], float | None] = lambda: None
) -> bytearray:
    """Read exactly ``size`` bytes. Raises EOFError if the other side closes first."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        connection.settimeout(patience())
        try:
            count = connection.recv_into(view)
        except TimeoutError:
            continue
        if not count:
            raise EOFError
        view = view[count:]
    return buffer


def answer_of(header: bytes, payload: int, request: int) -> Answer:
    """Read an answer to ``request`` with ``payload`` bytes after it. Raises Garbled for anything else."""
    try:
        answer = Answer.model_validate_json(header)
    except ValidationError as error:
        raise Garbled(str(error)) from None
    if answer.id != request:
        raise Garbled(f"the answer to request {answer.id} instead of {request}")
    if answer.kind is not None and (answer.kind not in KINDS or payload):
        raise Garbled("a failure of no known kind, or with bytes behind it")
    return answer


def shown(text: str) -> str:
    """Make a text from the other side safe for a table and a terminal: one line, no control characters, bounded."""
    clean = "".join(c if c.isprintable() else " " for c in text.strip())
    return clean if len(clean) <= SHOWN_CHARACTERS else clean[: SHOWN_CHARACTERS - 1] + "…"

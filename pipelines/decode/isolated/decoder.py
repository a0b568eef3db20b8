"""Decoding one video, wherever it is, at no risk to the process that asks for it."""

from __future__ import annotations

import atexit
import threading
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Self

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode.errors import DecodeError
from pipelines.decode.isolated.addresses import local_path, suffix_of
from pipelines.decode.isolated.messages import (
    HEADER_BYTES,
    HEADER_BYTES_PER_FRAME,
    Copied,
    DecodeRequest,
    FetchRequest,
    Garbled,
    VideoHeader,
)
from pipelines.decode.isolated.process import Process
from pipelines.decode.isolated.scratch import scratch_file
from pipelines.decode.job import DecodedVideo

DECODE_MODULE = "pipelines.decode.isolated.decode_worker"
FETCH_MODULE = "pipelines.decode.isolated.fetch_worker"
AGAIN = frozenset({"crashed", "memory"})
ATTEMPTS = 2


@dataclass(frozen=True)
class Decoded:
    """A decoded video, its file's size in bytes and SHA-256, and the attempt it came from (counted from 1).

    ``mtime_ns``: when the file was changed last, None where the storage does not tell.
    """

    video: DecodedVideo
    bytes: int
    sha256: str
    attempts: int
    mtime_ns: int | None = None


class Decoder:
    """Decodes in a child process, and fetches remote files in another; both are started when first needed.

    Threads take turns. ``decode_module`` and ``fetch_module``: what the children run.
    """

    def __init__(self, decode_module: str = DECODE_MODULE, fetch_module: str = FETCH_MODULE) -> None:
        self._decoding, self._fetching = Process(decode_module), Process(fetch_module)
        self._turn = threading.Lock()
        self._numbers = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes; the next video starts them anew."""
        self._decoding.end()
        self._fetching.end()

    def decode(
        self, uri: str, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
    ) -> Decoded:
        """Decode the frames of ``uri`` (a path, a file:// or a fetched address) that ``recipe`` keeps.

        A death of the process, and want of memory, may be the machine's fault or an earlier video's: these are
        tried once more, in a fresh process. Raises DecodeError with a kind of ``KINDS`` and its ``attempts``;
        RunError when no process can be started.
        """
        with self._turn:
            attempt = 1
            while True:
                try:
                    return self._once(uri, recipe, (start_s, end_s), attempt)
                except DecodeError as error:
                    error.attempts = attempt
                    if error.kind not in AGAIN or attempt == ATTEMPTS:
                        raise
                attempt += 1

    def _once(self, uri: str, recipe: PrepareConfig, clip: tuple[float | None, float | None], attempt: int) -> Decoded:
        path = local_path(uri)
        if path is not None:
            mtime_ns = modified_ns(path)
            header, video = self._decode(path, recipe, clip, digest=True)
            return Decoded(video, header.bytes, header.sha256 or "", attempt, mtime_ns)
        with scratch_file(suffix_of(uri)) as copy:
            copied = self._fetch(uri, copy, recipe.limits)
            _, video = self._decode(copy, recipe, clip, digest=False)
        return Decoded(video, copied.bytes, copied.sha256, attempt, copied.mtime_ns)

    def _fetch(self, uri: str, path: Path, limits: LimitsConfig) -> Copied:
        request = FetchRequest(id=next(self._numbers), uri=uri, path=str(path), limits=limits)
        try:
            return self._fetching.ask(request, _checked_copy)[0]
        except DecodeError as error:
            if error.kind == "timeout":  # the network's, so not the video's
                raise DecodeError("unreachable", error.message) from None
            raise

    def _decode(
        self, path: Path, recipe: PrepareConfig, clip: tuple[float | None, float | None], *, digest: bool
    ) -> tuple[VideoHeader, DecodedVideo]:
        request = DecodeRequest(
            id=next(self._numbers),
            limits=recipe.limits,
            path=str(path),
            recipe=recipe,
            start_s=clip[0],
            end_s=clip[1],
            digest=digest,
        )
        longest = HEADER_BYTES + HEADER_BYTES_PER_FRAME * recipe.max_frames
        header, payload = self._decoding.ask(request, partial(_checked_video, request), longest)
        return header, header.video(payload)


def _checked_video(request: DecodeRequest, result: dict[str, Any], payload: int) -> VideoHeader:
    header = VideoHeader.model_validate(result)
    header.check(request.recipe, payload)
    if (header.sha256 is None) is request.digest:
        raise Garbled("no digest, or one that was not asked for")
    return header


def _checked_copy(result: dict[str, Any], payload: int) -> Copied:
    if payload:
        raise Garbled("bytes behind an answer that has none")
    return Copied.model_validate(result)


def modified_ns(path: Path) -> int | None:
    """When a file was changed last, in nanoseconds since 1970; None where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return None


@cache
def shared_decoder() -> Decoder:
    """The decoder of this process, for whoever has none; it is closed when the process ends."""
    decoder = Decoder()
    atexit.register(decoder.close)
    return decoder

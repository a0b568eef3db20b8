"""Decode a local or remote video without risk to the calling process."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Self

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import Clip, DecodeError
from pipelines.decode.clip_job import DecodedVideo
from pipelines.decode.isolated.fetching import local_path, scratch_file, suffix_of
from pipelines.decode.isolated.messages import (
    HEADER_BYTES,
    HEADER_BYTES_PER_FRAME,
    Copied,
    DecodeRequest,
    FetchRequest,
    Garbled,
    VideoHeader,
)
from pipelines.decode.isolated.process import Process, WaitedError

DECODE_MODULE = "pipelines.decode.isolated.decode_worker"
FETCH_MODULE = "pipelines.decode.isolated.fetching"
AGAIN = frozenset({"crashed", "memory"})
ATTEMPTS = 2


@dataclass(frozen=True)
class Decoded:
    """A decoded video, its file's size in bytes and SHA-256, and the number of the attempt (from 1).

    ``mtime_ns``: when the file was last changed, None if the storage does not say.
    """

    video: DecodedVideo
    bytes: int
    sha256: str
    attempts: int
    mtime_ns: int | None = None


@dataclass(frozen=True)
class _Source:
    """The local file to decode, when it was last changed, and the facts of the fetched file if it is a copy."""

    path: Path
    mtime_ns: int | None
    copied: Copied | None


class Decoder:
    """Decodes in a child process, and fetches remote files in another; both start at first use.

    Threads take turns. ``decode_module`` and ``fetch_module``: the modules that the children run.
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
        """End the child processes; the next video starts new ones."""
        self._decoding.end()
        self._fetching.end()

    def stop(self) -> None:
        """End the child processes for good, from any thread; callers that wait for one get a RunError."""
        self._decoding.stop()
        self._fetching.stop()

    def decode(
        self, uri: str, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
    ) -> Decoded:
        """Decode one clip as ``decode_clips`` does, but raise its DecodeError."""
        given = next(self.decode_clips(uri, recipe=recipe, clips=[Clip(start_s, end_s)]))
        if isinstance(given, DecodeError):
            raise given
        return given

    def decode_clips(
        self, uri: str, *, recipe: PrepareConfig, clips: Sequence[Clip]
    ) -> Generator[Decoded | DecodeError]:
        """Decode the frames that ``recipe`` keeps of clips of ``uri``: a path, a file:// or a fetched address.

        Yields the clips in the order given, each as soon as it is decoded; a remote file is fetched once for all.
        A crash of the process, or a lack of memory, may be the fault of the machine, of an earlier video or, because
        some clips are decoded ahead, of a later one: the first clip without an answer is tried once more, alone in a
        fresh process. Errors have a kind of ``KINDS`` and their ``attempts``. Raises RunError if no process can start.
        """
        with self._turn, ExitStack() as stack:
            try:
                source = _twice(partial(self._source, uri, recipe.limits, stack))
            except DecodeError as error:
                for _ in clips:
                    yield _copied(error, error.attempts)
                return
            yield from self._clips(source, recipe, clips)

    def _clips(self, source: _Source, recipe: PrepareConfig, clips: Sequence[Clip]) -> Iterator[Decoded | DecodeError]:
        done, attempt = 0, 1
        while done < len(clips):
            asked = clips[done:] if attempt == 1 else clips[done : done + 1]
            try:
                for given in self._answers(source, recipe, asked):
                    yield (
                        _copied(given, attempt) if isinstance(given, DecodeError) else replace(given, attempts=attempt)
                    )
                    done, attempt = done + 1, 1
            except DecodeError as error:
                of_the_file = error.kind == "unreachable" or isinstance(error, WaitedError)
                if attempt < ATTEMPTS and not of_the_file and (error.kind in AGAIN or len(asked) > 1):
                    attempt += 1
                    continue
                lost = len(clips) - done if of_the_file else 1
                for _ in range(lost):
                    yield _copied(error, attempt)
                done, attempt = done + lost, 1

    def _source(self, uri: str, limits: LimitsConfig, stack: ExitStack) -> _Source:
        """Find the file to decode, and fetch it if it is remote."""
        path = local_path(uri)
        if path is not None:
            return _Source(path, modified_ns(path), None)
        copy = stack.enter_context(scratch_file(suffix_of(uri)))
        copied = self._fetch(uri, copy, limits)
        return _Source(copy, copied.mtime_ns, copied)

    def _fetch(self, uri: str, path: Path, limits: LimitsConfig) -> Copied:
        request = FetchRequest(id=next(self._numbers), uri=uri, path=str(path), limits=limits)
        try:
            return self._fetching.ask(request, _checked_copy)[0]
        except DecodeError as error:
            if error.kind == "timeout":  # the network's fault, not the video's
                raise DecodeError("unreachable", error.message) from None
            raise

    def _answers(
        self, source: _Source, recipe: PrepareConfig, clips: Sequence[Clip]
    ) -> Iterator[Decoded | DecodeError]:
        request = DecodeRequest(
            id=next(self._numbers),
            limits=recipe.limits,
            path=str(source.path),
            recipe=recipe,
            clips=[(clip.start_s, clip.end_s) for clip in clips],
            digest=source.copied is None,
        )
        self._decoding.use(recipe.decoder)
        longest = HEADER_BYTES + HEADER_BYTES_PER_FRAME * recipe.max_frames
        for given in self._decoding.answers(request, partial(_checked_video, request), len(clips), longest):
            if isinstance(given, DecodeError):
                yield given
                continue
            header, payload = given
            facts = source.copied or header
            yield Decoded(header.video(payload), facts.bytes, facts.sha256 or "", 1, source.mtime_ns)


def _twice(act: Callable[[], _Source]) -> _Source:
    """Call ``act``, and once more if the process died or lacked memory."""
    attempt = 1
    while True:
        try:
            return act()
        except DecodeError as error:
            error.attempts = attempt
            if error.kind not in AGAIN or attempt == ATTEMPTS:
                raise
            attempt += 1


def _copied(error: DecodeError, attempts: int) -> DecodeError:
    copy = DecodeError(error.kind, error.message)
    copy.attempts = attempts
    return copy


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
    """Return when a file was last changed, in nanoseconds since 1970; None if it cannot be read."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return None


@cache
def shared_decoder() -> Decoder:
    """Return this process's shared decoder, for callers without one of their own; it is closed at exit."""
    decoder = Decoder()
    atexit.register(decoder.close)
    return decoder

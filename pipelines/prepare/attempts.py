"""Try the videos of a unit: group rows by source, and return the results in the manifest's order."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, Self

from gare.common.errors import RunError
from gare.common.files import os_errors_as_input
from gare.config import PrepareConfig
from pipelines.dataset.shard_rows import BATCH_BYTES, Row, shard_row
from pipelines.decode import Clip, DecodeError
from pipelines.decode.errors import ROW_BYTES
from pipelines.decode.isolated.decoder import Decoded

Attempt = tuple[Row, Row | None]
"""The LEDGER row of one video, and its SHARD row when ok."""
Placed = tuple[int, Row]
"""A manifest row and its position in the unit."""
Tries = Callable[[Mapping[int, Row], PrepareConfig], Iterator[Attempt]]
"""Tries manifest rows, given by their positions in the unit, and yields the attempts in the order of the rows."""


@dataclass(frozen=True)
class UnitCounts:
    """A finished unit's contribution to the progress: the decoded videos, and how many of them failed.

    ``kept``: how many failed but keep the frames stored before.
    """

    unit: int
    videos: int
    failed: int
    kept: int = 0


class Decodes(Protocol):
    """Decodes clips of a source: ``pipelines.decode.isolated.decoder.Decoder``, or a stand-in for it."""

    def decode_clips(
        self, uri: str, *, recipe: PrepareConfig, clips: Sequence[Clip]
    ) -> Generator[Decoded | DecodeError]:
        """Yield each clip's result, in the order given."""
        ...


def attempts(rows: Mapping[int, Row], recipe: PrepareConfig, decoder: Decodes) -> Iterator[Attempt]:
    """Try manifest rows, given by their positions, in this process; yield attempts in the order of the rows."""
    tried = (made for source in by_source(rows) for made in of_one_source(source, recipe, decoder))
    yield from in_order(tried, rows)


def by_source(rows: Mapping[int, Row]) -> list[list[Placed]]:
    """Group the rows by source, so that each source is opened, digested and fetched once."""
    sources: dict[str, list[Placed]] = {}
    for position, row in rows.items():
        sources.setdefault(row["uri"], []).append((position, row))
    return list(sources.values())


def of_one_source(rows: Sequence[Placed], recipe: PrepareConfig, decoder: Decodes) -> Iterator[tuple[int, Attempt]]:
    """Try the rows of one source in order. No fault of a video raises."""
    left = list(rows)
    while left:
        clips = [Clip(row["start_s"], row["end_s"]) for _, row in left]
        with closing(decoder.decode_clips(left[0][1]["uri"], recipe=recipe, clips=clips)) as given:
            over = False
            while left and not over:
                started = time.monotonic()
                position, row = left.pop(0)
                try:
                    made = _ok(row, next(given), recipe)
                except DecodeError as error:
                    made = _failed(row, error.kind, error.message, error.attempts)
                except RunError:  # no decoding process, which is no video's fault
                    raise
                except Exception as error:  # noqa: BLE001 - no video may stop the job
                    first = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
                    made, over = _failed(row, "internal", first, 1), True
                made[0]["decode_s"] = time.monotonic() - started
                yield position, made


def _ok(row: Row, given: Decoded | DecodeError, recipe: PrepareConfig) -> Attempt:
    if isinstance(given, DecodeError):
        raise given
    video = given.video
    stored = shard_row(row, video, recipe, size=given.bytes, sha256=given.sha256)
    if sum(map(len, stored["frames"])) > ROW_BYTES:
        size = f"{len(video.frames)} frames of more than {ROW_BYTES} bytes"
        raise DecodeError("too_many_bytes", f"{size}, the most of a row; lower prepare.max_frames or the sizes.")
    entry = _entry(row) | {"notes": video.notes, "frames": len(video.frames), "attempts": given.attempts}
    entry |= {"source_bytes": given.bytes, "source_sha256": given.sha256, "source_mtime_ns": given.mtime_ns}
    return entry, stored


def _failed(row: Row, kind: str, message: str, tries: int) -> Attempt:
    return _entry(row) | {"status": "failed", "reason": kind, "message": message, "attempts": tries}, None


def _entry(row: Row) -> Row:
    entry: Row = {name: row[name] for name in ("video_id", "uri", "split")}
    return entry | {"status": "ok", "notes": [], "frames": 0, "attempts": 1}


def in_order(tried: Iterable[tuple[int, Attempt]], positions: Iterable[int]) -> Iterator[Attempt]:
    """Yield attempts in the order of ``positions``, setting aside those that come early."""
    waiting = deque(positions)
    with Aside() as aside:
        for position, attempt in tried:
            aside.put(position, attempt)
            while waiting and waiting[0] in aside:
                yield aside.take(waiting.popleft())


class Aside:
    """Attempts that wait for their turn: ``room`` bytes of frames in memory, the rest in an unnamed file.

    Use as a context manager. Raises InputError naming the temporary folder if the file cannot be written.
    """

    def __init__(self, room: int = BATCH_BYTES) -> None:
        self._room, self._held = room, 0
        self._there: dict[int, tuple[Attempt, int, list[int] | None]] = {}
        self._file: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, position: int) -> bool:
        return position in self._there

    def put(self, position: int, attempt: Attempt) -> None:
        """Set an attempt aside."""
        entry, stored = attempt
        sizes = [] if stored is None else [len(frame) for frame in stored["frames"]]
        if stored is None or not self._there or self._held + sum(sizes) <= self._room:
            self._held += sum(sizes)
            self._there[position] = attempt, sum(sizes), None
            return
        with os_errors_as_input(tempfile.gettempdir()):
            self._file = self._file or tempfile.TemporaryFile(prefix="gare-")  # noqa: SIM115 - closed at the end
            start = self._file.seek(0, 2)
            for frame in stored["frames"]:
                self._file.write(frame)
            self._file.flush()
        self._there[position] = (entry, {**stored, "frames": []}), start, sizes

    def take(self, position: int) -> Attempt:
        """Return an attempt and forget it."""
        (entry, stored), number, sizes = self._there.pop(position)
        if sizes is None:
            self._held -= number
        elif stored is not None:
            self._file.seek(number)
            stored = {**stored, "frames": [self._file.read(size) for size in sizes]}
        if not self._there and self._file is not None:
            self._file.truncate(0)
        return entry, stored

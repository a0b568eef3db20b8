"""Write the segments of an index, of bounded size, from the records, information and codes of videos."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gare.retrieval.codes import Codes, Lists, SegmentCodes
from gare.retrieval.folder import Generation, SegmentFiles
from gare.retrieval.media import MediaWriter
from gare.retrieval.records import write_records

SEGMENT_VIDEOS = 250_000
"""Most videos in a segment."""


class SegmentWriter:
    """Appends videos to segments of a generation; ``done`` lists those that are full, and all after the block.

    ``lists``: the lists that codes are grouped into, if the index has any.
    """

    def __init__(self, generation: Generation, lists: Lists | None = None) -> None:
        self.done: list[SegmentFiles] = []
        self._generation, self._lists = generation, lists
        self._open: ExitStack | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            if error is None:
                self._close()
            else:
                self._open.__exit__(kind, error, trace)

    def add(
        self, records: NDArray[np.void], table: pa.Table, codes: Codes | None, media: pa.Table | None = None
    ) -> None:
        """Append some videos; all of an index have codes, or none, and all have media, or none."""
        if self._open is not None and self._count + len(records) > SEGMENT_VIDEOS:
            self._close()
        if self._open is None:
            self._begin(media=media is not None)
        write_records(self._records, records)
        self._tables.append(table)
        if codes is not None:
            self._codes.append(codes)
        if media is not None:
            self._media.add(media)
        self._count += len(records)

    def _begin(self, *, media: bool) -> None:
        stem = self._generation.segment()
        self._files = SegmentFiles(videos=0, records=f"{stem}.records", about=f"{stem}.arrow")
        self._codes: list[Codes] = []
        self._tables: list[pa.Table] = []
        self._count, self._open = 0, ExitStack()
        path = self._open.enter_context(self._generation.file(self._files.records))
        self._records: IO[bytes] = self._open.enter_context(path.open("wb"))
        if media:
            self._files.media = f"{stem}.media"
            path = self._open.enter_context(self._generation.file(self._files.media))
            self._media = self._open.enter_context(MediaWriter(path))

    def _close(self) -> None:
        stack, self._open = self._open, None
        assert stack is not None  # noqa: S101
        stack.close()
        with self._generation.file(self._files.about) as path:
            write_videos(path, pa.concat_tables(self._tables))
        self._files.videos = self._count
        if self._codes:
            write_codes(self._generation, self._files, Codes.join(self._codes), self._lists)
        self.done.append(self._files)


def write_videos(path: Path, table: pa.Table) -> None:
    """Write information on videos as one batch, so that the bytes do not depend on how they came."""
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table.combine_chunks())


def write_codes(generation: Generation, files: SegmentFiles, codes: Codes, lists: Lists | None) -> None:
    """Write the codes of a segment's videos, given in their order, and name the file in ``files``."""
    files.codes = f"{files.records.partition('-')[0]}-g{generation.number}.codes"
    with generation.file(files.codes) as path:
        SegmentCodes.of(codes, lists).save(path)
